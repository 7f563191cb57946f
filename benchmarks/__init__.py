"""Measurements that are no stage of the chain: `python -m benchmarks.<name>`."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before ONNX Runtime is imported: it would report to its maker

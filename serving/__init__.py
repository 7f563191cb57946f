"""Answers of an exported model: in Python, over HTTP; without torch."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before ONNX Runtime is imported: it would report to its maker

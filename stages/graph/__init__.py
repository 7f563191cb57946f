"""ONNX: trace, rewrite, quantize, check, describe."""

import serving  # noqa: F401  # before ONNX Runtime is imported: its telemetry is off

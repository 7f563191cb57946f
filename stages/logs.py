"""What stages print: their own messages, and of the libraries' only errors.

`MAKD_LOG=debug` brings the rest back: load reports, progress bars and remarks of the libraries.
"""

import logging
import os
import sys

QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "DATASETS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore",
}
"""Environment of a stage; what is set already stays."""
LEVELS = ("debug", "info", "warning", "error")


def configure_logs() -> None:
    """Before the libraries are imported, which read their settings then."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime would report to its maker
    level = os.environ.get("MAKD_LOG", "info").lower()
    if level not in LEVELS:
        sys.exit(f"MAKD_LOG={level}: the levels are {', '.join(LEVELS)}")
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    logging.getLogger("stages").setLevel(level.upper())
    if level == "debug":
        return
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")

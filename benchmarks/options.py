"""Command-line options that several benchmarks have."""

import argparse
from pathlib import Path


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help begins with a module's docstring, as it is written."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_model_options(parser: argparse.ArgumentParser, *, hidden: int = 768, layers: int = 12) -> None:
    """`--hidden`, `--layers` of a model with random weights; by default BERT-base's."""
    parser.add_argument("--hidden", type=int, default=hidden)
    parser.add_argument("--layers", type=int, default=layers)


def add_batch_options(parser: argparse.ArgumentParser) -> None:
    """`--batch`, `--length` of a batch of random tokens."""
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)


def add_timing_options(parser: argparse.ArgumentParser) -> None:
    """`--rounds`, `--threads`, `--precision`, as `benchmarks.rounds` takes them."""
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's own choice")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")


def add_training_options(parser: argparse.ArgumentParser, *, params: str, rows: str, work: str) -> None:
    """Options of benchmarks that train models on tasks: settings, data, where models and rows go.

    Args:
        params: file over params.yaml.
        rows: CSV to append to.
        work: folder for models.
    """
    files = [Path("params.yaml"), Path(params)]
    parser.add_argument("--params", type=Path, nargs="+", default=files, help="settings; later files over earlier ones")
    parser.add_argument("--source", default="bundled", help="data.source of the tasks: bundled, hub or a folder")
    parser.add_argument("--examples", type=int, help="training examples of a task, drawn with the seed; all without it")
    parser.add_argument("--workers", type=int, default=1, help="models trained side by side; set OMP_NUM_THREADS too")
    parser.add_argument("--rows", type=Path, default=Path(rows), help="CSV to append to")
    parser.add_argument("--work", type=Path, default=Path(work), help="folder for models")
    parser.add_argument("--table", action="store_true", help="only print the table of --rows")

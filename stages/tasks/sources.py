"""Where a task's examples come from: generated here (`bundled`), the hub, or a folder."""

from collections.abc import Callable
from pathlib import Path

from datasets import Dataset, load_dataset
from sklearn.model_selection import train_test_split

from stages.errors import BadInput
from stages.schema.glue import GLUE
from stages.tasks.bundled import read_bundled
from stages.tasks.data_folder import read_folder
from stages.tasks.files import Table
from stages.tasks.preparation import Preparation, R

HUB = "nyu-mll/glue"


def load_examples(
    given: Preparation[R], read: Callable[[Table, str, R], Dataset], *, stratify: bool = False
) -> dict[str, Dataset]:
    """The task's `train` and `validation` examples, of train as many as are to be trained on.

    Args:
        read: the examples of a table; its columns are those of the result.
        stratify: hold out each class in the same share, where the source has no validation split.

    Raises:
        BadInput: the source does not have the task, or what it has cannot work.
    """
    tables = _read_tables(given)
    splits = {split: read(table, given.name, given.task) for split, table in tables.items()}
    if "validation" not in splits:
        splits = _hold_out(splits["train"], given.settings.validation_share, given.seed, stratify)
    return given.draw_train_examples(splits)


def _read_tables(given: Preparation[R]) -> dict[str, Table]:
    source, name = given.data.source, given.name
    if source not in ("bundled", "hub"):
        return read_folder(Path(source).expanduser(), name, given.task)
    known = ["sentiment"] if source == "bundled" else [task for task in GLUE if task != "sentiment"]
    if name not in known:
        raise BadInput(f"data.source {source} has {', '.join(known)}, not {name}; set data.source to a folder")
    return read_bundled() if source == "bundled" else _read_hub(name)


def _read_hub(name: str) -> dict[str, Table]:
    config, ending = (name, "") if not name.startswith("mnli") else ("mnli", name.removeprefix("mnli") or "_matched")
    tables = {}
    for split, hub_split in {"train": "train", "validation": f"validation{ending}"}.items():
        try:
            rows = load_dataset(HUB, config, split=hub_split)
        except (OSError, ValueError) as error:  # ConnectionError and the hub's own errors are OSErrors
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BadInput(
                f"data.source hub: {HUB} cannot be loaded ({reason}); "
                "set data.source to a folder with the files, or to bundled"
            ) from error
        origin = f"{HUB} {config} {hub_split}"
        tables[split] = Table(origin=origin, columns=rows.to_dict(), lines=range(1, len(rows) + 1), unit="row")
    return tables


def _hold_out(train: Dataset, share: float, seed: int, stratify: bool) -> dict[str, Dataset]:
    """Train split in two."""
    strata = train["labels"][:] if stratify else None
    try:
        kept, held = train_test_split(range(len(train)), test_size=share, random_state=seed, stratify=strata)
    except ValueError as error:
        raise BadInput(
            f"prepare.validation_share {share} cannot be held out of {len(train)} rows ({error}); "
            "give a validation file or another share"
        ) from None
    return {"train": train.select(sorted(kept)), "validation": train.select(sorted(held))}

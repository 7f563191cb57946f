"""Where a task's examples come from: generated here (`bundled`), the hub, or a folder."""

from pathlib import Path
from typing import TYPE_CHECKING

from stages.settings import BadInput, Data
from stages.tasks import GLUE, Task, bundled, folder
from stages.tasks.conversations import conversations
from stages.tasks.examples import examples
from stages.tasks.files import Table

if TYPE_CHECKING:
    from datasets import Dataset

HUB = "nyu-mll/glue"


def load(data: Data, name: str, task: Task, validation_share: float, seed: int) -> dict[str, "Dataset"]:
    """The task's `train` and `validation` examples: columns text, text_pair (pairs only), labels; of a causal_lm prompt
    and response, or messages.

    Args:
        validation_share: part of train to hold out, only where the source has no validation split.

    Raises:
        BadInput: the source does not have the task, or what it has cannot work.
    """
    read = conversations if task.kind == "causal_lm" else examples
    splits = {split: read(table, name, task) for split, table in _tables(data, name, task).items()}
    return splits if "validation" in splits else _hold_out(splits["train"], task, validation_share, seed)


def _tables(data: Data, name: str, task: Task) -> dict[str, Table]:
    if data.source not in ("bundled", "hub"):
        return folder.tables(Path(data.source).expanduser(), name, task)
    here = ["sentiment"] if data.source == "bundled" else [known for known in GLUE if known != "sentiment"]
    if name not in here:
        raise BadInput(f"data.source {data.source} has {', '.join(here)}, not {name}; set data.source to a folder")
    return bundled.tables() if data.source == "bundled" else _hub(name)


def _hub(name: str) -> dict[str, Table]:
    from datasets import load_dataset

    config, ending = (name, "") if not name.startswith("mnli") else ("mnli", name.removeprefix("mnli") or "_matched")
    tables = {}
    for split, there in {"train": "train", "validation": f"validation{ending}"}.items():
        try:
            rows = load_dataset(HUB, config, split=there)
        except (OSError, ValueError) as error:  # ConnectionError and the hub's own errors are OSErrors
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BadInput(
                f"data.source hub: {HUB} cannot be loaded ({reason}); "
                "set data.source to a folder with the files, or to bundled"
            ) from error
        origin = f"{HUB} {config} {there}"
        tables[split] = Table(origin=origin, columns=rows.to_dict(), lines=range(1, len(rows) + 1), unit="row")
    return tables


def _hold_out(train: "Dataset", task: Task, share: float, seed: int) -> dict[str, "Dataset"]:
    """Train split in two, each class in the same shares."""
    from sklearn.model_selection import train_test_split

    strata = train["labels"][:] if task.kind == "classification" else None
    try:
        kept, held = train_test_split(range(len(train)), test_size=share, random_state=seed, stratify=strata)
    except ValueError as error:
        raise BadInput(
            f"prepare.validation_share {share} cannot be held out of {len(train)} rows ({error}); "
            "give a validation file or another share"
        ) from None
    return {"train": train.select(sorted(kept)), "validation": train.select(sorted(held))}

"""A folder in, a task's tables out: the official GLUE files, the hub's Parquet layout, or files of your own.

<source>/SST-2/train.tsv, dev.tsv                       official
<source>/sst2/train-00000-of-00001.parquet, ...         as on the hub
<source>/<task>/train.csv|tsv|jsonl|json|parquet        your own; validation.*, dev.* or valid.* beside it
<source>/train.csv                                      your own, one task only

Plain text is read by `stages.corpora.documents`, from the first of these folders.
"""

from dataclasses import dataclass, field
from pathlib import Path

from stages.errors import BadInput
from stages.schema.task import Task
from stages.tasks.files import Table, read_table

FORMATS = (".tsv", ".csv", ".jsonl", ".json", ".parquet", ".txt")
STEMS = {
    "train": ["train", "msr_paraphrase_train"],
    # the MSR corpus itself has no dev file; its labeled test file is the held-out part
    "validation": ["validation", "dev", "valid", "msr_paraphrase_test"],
}


@dataclass(frozen=True, kw_only=True)
class Official:
    """How a corpus' official files differ from the table in `stages/schema/glue.py`."""

    rename: dict[str, str] = field(default_factory=dict)
    """Official column -> ours."""
    names: tuple[str, ...] = ()
    """Columns of files without a header line."""
    validation: str = ""
    """Ending of the validation file's stem, where there are several."""
    drop_ragged: bool = False
    """Leave broken rows out, as the hub's version of the corpus does."""


_MNLI = {"sentence1": "premise", "sentence2": "hypothesis", "gold_label": "label"}
OFFICIAL: dict[str, Official] = {
    "cola": Official(names=("source", "label", "star", "sentence")),
    "mrpc": Official(rename={"Quality": "label", "#1 String": "sentence1", "#2 String": "sentence2"}),
    "qqp": Official(rename={"is_duplicate": "label"}, drop_ragged=True),
    "stsb": Official(rename={"score": "label"}),
    "mnli": Official(rename=_MNLI, validation="_matched"),
    "mnli_mismatched": Official(rename=_MNLI, validation="_mismatched"),
}


def read_folder(source: Path, name: str, task: Task) -> dict[str, Table]:
    """The task's train and, where there is one, validation table.

    Raises:
        BadInput: no such folder, no train file in it, two train files, or a file that cannot be read.
    """
    official = OFFICIAL.get(name, Official())
    for folder in find_task_folders(source, name, task):
        if train := _find_files(folder, STEMS["train"]):
            stems = [f"{stem}{official.validation}" for stem in STEMS["validation"]]
            parts = {"train": train, "validation": _find_files(folder, stems)}
            return {split: _read_shards(files, official) for split, files in parts.items() if files}
    raise BadInput(
        f"data.source {source} has no training file for {name}; "
        f"it needs {task.folder or name}/train with the ending {', '.join(FORMATS[:-1])}"
    )


def find_task_folders(source: Path, name: str, task: Task) -> list[Path]:
    """Folders to look into: named as the corpus, named as the task (in any case), and the source itself.

    Raises:
        BadInput: no such folder.
    """
    if not source.is_dir():
        raise BadInput(f"data.source {source} is not a folder; give `bundled`, `hub`, or a folder that exists")
    folders = {path.name.lower(): path for path in sorted(source.iterdir()) if path.is_dir()}
    wanted = dict.fromkeys([(task.folder or name).lower(), name.lower()])
    return [folders[w] for w in wanted if w in folders] + [source]


def _find_files(folder: Path, stems: list[str]) -> list[Path]:
    """The one file of the first stem that is there, or all its Parquet shards."""
    for stem in stems:
        files = [path for suffix in FORMATS if (path := folder / f"{stem}{suffix}").is_file()]
        if len(files) > 1:
            raise BadInput(f"{folder} has {' and '.join(p.name for p in files)}; keep one of them")
        if files := files or sorted(folder.glob(f"{stem}-*-of-*.parquet")):
            return files
    return []


def _read_shards(files: list[Path], official: Official) -> Table:
    parts = [read_table(path, official.names, official.drop_ragged) for path in files]
    table = parts[0]
    if len(parts) > 1:
        columns = {c: [v for part in parts for v in part.columns[c]] for c in table.columns}
        rows = range(1, sum(len(part.lines) for part in parts) + 1)
        table = Table(origin=str(files[0].parent), columns=columns, lines=rows, unit="row")
    renamed = {official.rename.get(c, c): values for c, values in table.columns.items()}
    return Table(origin=table.origin, columns=renamed, lines=table.lines, unit=table.unit)

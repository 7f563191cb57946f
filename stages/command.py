"""How every verb starts and ends on the command line: `--help`, settings checked, outputs whole or absent, run tracked.

    if __name__ == "__main__":
        with command(Distill, __doc__, "task") as job:
            distill(job.params.distill, job.task, ..., job.output, job.run)

Outputs are written to a hidden folder beside their place and moved there when the verb has returned: a stage that
is killed leaves nothing that a later stage would trust.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stages import tracking
from stages.corpora.corpus import Corpus
from stages.settings import BadInput, Params, describe, load
from stages.tasks import Task
from stages.tracking.context import is_main

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before ONNX Runtime is imported: it would report to its maker

OUTPUTS = Path("outputs")
STATE = Path(".makd")
"""What outlives a killed stage (training checkpoints) and must not be mistaken for an output."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One verb at work on one task (and recipe), or on one corpus."""

    verb: str
    params: Params
    name: str
    """The task's or the corpus's; empty for a verb that works on all of them."""
    recipe: str
    place: Path
    """`<verb>/<task or corpus>/<recipe>/<seed>`, as far as the verb has these axes."""
    output: Path
    """Where to write; moved to `outputs/<place>` at the end."""
    run: tracking.Run

    @property
    def task(self) -> Task:
        return self.params.task(self.name)

    @property
    def corpus(self) -> Corpus:
        return self.params.corpus(self.name)

    @property
    def state(self) -> Path:
        """Where this job may keep what it needs to resume after a kill."""
        return STATE / "state" / self.place

    def of(self, verb: str, *parts: str) -> Path:
        """Where another verb put what it made of this task or corpus."""
        path = OUTPUTS / Path(verb, self.name, *parts)
        if not path.exists():
            maker = "export" if verb == "teacher" else verb  # export writes the teacher's graph too
            stage = f"{maker}@{'-'.join((self.name, *parts[:-1]))}"
            raise BadInput(f"{path} does not exist; run `dvc repro {stage}` first")
        return path


@contextmanager
def command(block: type, doc: str, *axes: str, verb: str = "") -> Iterator[Job]:
    """Parses the command line, checks all of params.yaml, opens the tracked run and moves the outputs into place.

    Args:
        block: the verb's settings class, printed by `--help`; its lower-case name is the verb unless `verb` says other.
        axes: `task` or `corpus`, `recipe`, `seed`, or the first of them: what the command line must name. A seed given
            there takes the place of that in params.yaml.
    """
    verb = verb or block.__name__.lower()
    arguments = _parse(verb, block, doc, axes)
    try:
        params = _with_seed(load(), getattr(arguments, "seed", None))
        task, corpus, recipe, seed = (getattr(arguments, axis, "") for axis in ("task", "corpus", "recipe", "seed"))
        if task:
            params.task(task)
        if corpus:
            params.corpus(corpus)
        if recipe and recipe not in params.recipes:
            raise BadInput(f"--recipe {recipe}: the recipes are {', '.join(params.recipes)}")
        name = task or corpus
        place = Path(verb, name, recipe, seed)
        with staged(OUTPUTS / place) as output, tracking.run(verb, task, recipe, params, seed, corpus) as run:
            yield Job(verb=verb, params=params, name=name, recipe=recipe, place=place, output=output, run=run)
            for path in sorted(output.iterdir()):
                if path.is_file():
                    run.artifact(path)
        if is_main():
            shutil.rmtree(STATE / "state" / place, ignore_errors=True)
    except BadInput as error:
        sys.exit(f"{verb}: {error}")


@contextmanager
def staged(final: Path) -> Iterator[Path]:
    """A folder to write into, whose entries are moved to `final` when all went well."""
    partial = final.parent / f".{final.name}.partial"
    if is_main():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        if is_main():
            shutil.rmtree(partial, ignore_errors=True)
        raise
    if not is_main():
        return
    final.mkdir(parents=True, exist_ok=True)
    for entry in partial.iterdir():
        target = final / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        entry.replace(target)
    partial.rmdir()


def _with_seed(params: Params, seed: str | None) -> Params:
    """The settings of one seed of several.

    Raises:
        BadInput: it is not a whole number from 0 on.
    """
    if seed is None:
        return params
    if not seed.isdecimal():
        raise BadInput(f"--seed {seed}: a whole number from 0 on is needed")
    return params.model_copy(update={"seed": int(seed)})


def _parse(verb: str, block: type, doc: str, axes: tuple[str, ...]) -> argparse.Namespace:
    module = "serving.benchmark" if verb == "benchmark" else f"stages.{verb}"
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=doc,
        epilog=f"settings: the block `{verb}` of params.yaml\n\n{describe(block)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for axis in axes:
        parser.add_argument(f"--{axis}", required=True, help=f"which {axis}, as named in params.yaml")
    return parser.parse_args()

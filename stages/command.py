"""How every verb starts and ends on the command line: `--help`, settings checked, outputs whole or absent, run tracked.

    if __name__ == "__main__":
        with command("distill", Distill, __doc__, "task") as job:
            distill(job.params.distill, job.work, data=job.find_output("prepare", "data"), ...)

Outputs are written to a hidden folder beside their place and moved there when the verb has returned: a stage that
is killed leaves nothing that a later stage would trust.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stages.errors import BadInput
from stages.logs import configure_logs
from stages.schema.block import Block
from stages.schema.corpus import Corpus
from stages.schema.task import Row
from stages.settings import Params, read_params
from stages.settings.help import format_help
from stages.tracking import Run, track_run
from stages.tracking.context import is_main
from stages.workspace import Workspace

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
    run: Run

    @property
    def task(self) -> Row:
        return self.params.get_task(self.name)

    @property
    def corpus(self) -> Corpus:
        return self.params.get_corpus(self.name)

    @property
    def work(self) -> Workspace:
        """Where to write, and the state to resume from after a kill."""
        return Workspace(output=self.output, state=STATE / "state" / self.place, seed=self.params.seed, run=self.run)

    def find_output(self, verb: str, *parts: str) -> Path:
        """What another verb made of this task or corpus.

        Raises:
            BadInput: it has not run.
        """
        path = OUTPUTS / Path(verb, self.name, *parts)
        if not path.exists():
            maker = "export" if verb == "teacher" else verb  # export writes the teacher's graph too
            stage = f"{maker}@{'-'.join((self.name, *parts[:-1]))}"
            raise BadInput(f"{path} does not exist; run `dvc repro {stage}` first")
        return path


@contextmanager
def command(verb: str, block: type[Block], doc: str, *axes: str) -> Iterator[Job]:
    """Parses the command line, checks all of params.yaml, opens the tracked run and moves the outputs into place.

    Args:
        block: the verb's settings, printed by `--help`.
        axes: `task` or `corpus`, `recipe`, `seed`, or the first of them: what the command line must name. A seed given
            there takes the place of that in params.yaml.
    """
    arguments = _parse_arguments(verb, block, doc, axes)
    configure_logs()
    try:
        params = _set_seed(read_params(), getattr(arguments, "seed", None))
        task, corpus, recipe, seed = (getattr(arguments, axis, "") for axis in ("task", "corpus", "recipe", "seed"))
        if task:
            params.get_task(task)
        if corpus:
            params.get_corpus(corpus)
        if recipe and recipe not in params.recipes:
            raise BadInput(f"--recipe {recipe}: the recipes are {', '.join(params.recipes)}")
        name = task or corpus
        place = Path(verb, name, recipe, seed)
        with (
            write_atomically(OUTPUTS / place) as output,
            track_run(verb, params, task=task, corpus=corpus, recipe=recipe, seed=seed) as run,
        ):
            yield Job(verb=verb, params=params, name=name, recipe=recipe, place=place, output=output, run=run)
            for path in sorted(output.iterdir()):
                if path.is_file():
                    run.log_artifact(path)
        if is_main():
            shutil.rmtree(STATE / "state" / place, ignore_errors=True)
    except BadInput as error:
        sys.exit(f"{verb}: {error}")


@contextmanager
def write_atomically(final: Path) -> Iterator[Path]:
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


def _set_seed(params: Params, seed: str | None) -> Params:
    """The settings of one seed of several.

    Raises:
        BadInput: it is not a whole number from 0 on.
    """
    if seed is None:
        return params
    if not seed.isdecimal():
        raise BadInput(f"--seed {seed}: a whole number from 0 on is needed")
    return params.model_copy(update={"seed": int(seed)})


def _parse_arguments(verb: str, block: type[Block], doc: str, axes: tuple[str, ...]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{verb}",
        description=doc,
        epilog=format_help(verb, block),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for axis in axes:
        parser.add_argument(f"--{axis}", required=True, help=f"which {axis}, as named in params.yaml")
    return parser.parse_args()

"""The students that benchmarks.budgets left, on training examples that none of them was trained on.

A validation split of a few hundred sentences distinguishes students two points apart at best; a task whose training
examples were drawn (`--examples`) has thousands of others to score on, by which no checkpoint was chosen.

    python -m benchmarks.others --source ~/glue --tasks sst2 --seeds 1 --count 10000 \\
        --rows docs/results/retention_unseen.csv

Prints a table of score with its 95 % interval, agreement with the teacher, and p of a paired bootstrap against the best
of its budget; a CSV of the same goes to --rows.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from benchmarks.options import make_parser
from stages.kinds import get_kind
from stages.models.loading import load_checkpoint
from stages.schema.glue import GLUE
from stages.schema.task import Row as TaskRow
from stages.settings import Base, Data, Prepare
from stages.tasks.batches import predict_logits
from stages.tasks.labeled import tokenize
from stages.tasks.preparation import Preparation
from stages.tasks.significance import interval_over_seeds, paired_p_value, resample_scores
from stages.tasks.splits import read_split

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from stages.kinds.labeled import LabeledKind
    from stages.tasks.predictions import Predictions

TEACHER = "teacher-1"
"""Named as the students' folders are: recipe and budget."""
BATCH_SIZE, RESAMPLES = 64, 2000


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    import pandas as pd
    from tabulate import tabulate

    options = parse_options(arguments)
    table = pd.concat([score_students(options, task, seed) for task in options.tasks for seed in options.seeds])
    if options.rows:
        table.round(3).to_csv(options.rows, index=False)
    print(tabulate(table.to_dict("list"), headers="keys", tablefmt="github", floatfmt=".2f"))


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = make_parser(__doc__)
    parser.add_argument("--source", required=True, help="data.source of the students")
    parser.add_argument("--tasks", nargs="+", choices=list(GLUE), default=["sst2"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--budgets", type=float, nargs="+", help="only students of these")
    parser.add_argument("--count", type=int, default=10_000, help="examples to score on, drawn with the seed")
    parser.add_argument("--work", type=Path, default=Path(".makd/budgets"), help="where benchmarks.budgets worked")
    parser.add_argument("--rows", type=Path, help="CSV to write")
    return parser.parse_args(arguments)


def score_students(options: argparse.Namespace, name: str, seed: int) -> "pd.DataFrame":
    """A row per student, by budget and score."""
    import pandas as pd

    task, place = GLUE[name], options.work / name / str(seed)
    kind = cast("LabeledKind", get_kind(task))  # as all of GLUE
    examples, tokenizer = draw_examples(options, name, task, seed, place / "prepare/data")
    predictions: dict[str, Predictions] = {
        student: predict_logits(load_checkpoint(folder), examples, tokenizer, BATCH_SIZE, student)
        for student, folder in list_models(place, options.budgets).items()
    }
    scorer = kind.make_scorer(task)
    models = {student: [own] for student, own in predictions.items()}
    resampled = resample_scores(scorer, models, RESAMPLES, seed)
    rows = []
    for student, own in predictions.items():
        recipe, budget = student.rsplit("-", 1)
        low, high = interval_over_seeds(resampled[student], seed)
        agreement = kind.measure_agreement(own.values, predictions[TEACHER].values)
        score = scorer.compute_scores(own)[task.metrics[0]]
        rows.append([name, seed, float(budget), recipe, score, low, high, agreement])
    columns = ["task", "seed", "budget", "recipe", "score", "low", "high", "agreement"]
    table = pd.DataFrame(rows, columns=columns).sort_values(["budget", "score"], ascending=False)
    best = table.groupby("budget").recipe.first()
    table["p"] = [
        float("nan")
        if recipe == best[budget]
        else paired_p_value(resampled[f"{recipe}-{budget:g}"], resampled[f"{best[budget]}-{budget:g}"])
        for budget, recipe in zip(table.budget, table.recipe, strict=True)
    ]
    return table


def list_models(place: Path, budgets: list[float] | None) -> dict[str, Path]:
    """The teacher, and each student whose training has ended: <recipe>-<budget> -> its folder."""
    students = {path.parent.name: path for path in sorted(place.glob("*-*/model"))}
    return {TEACHER: place / "finetune/model"} | {
        student: path
        for student, path in students.items()
        if not (path.parent / "untrained").exists() and (budgets is None or float(student.rsplit("-", 1)[1]) in budgets)
    }


def draw_examples(
    options: argparse.Namespace, name: str, task: TaskRow, seed: int, data: Path
) -> "tuple[Dataset, PreTrainedTokenizerBase]":
    """Training examples whose text is in none of the prepared splits, tokenized as those are, and the tokenizer."""
    from transformers import AutoTokenizer

    tokenizer, settings = AutoTokenizer.from_pretrained(data / "tokenizer"), Prepare()
    given = Preparation(
        name=name,
        task=task,
        data=Data(source=options.source),
        base=Base(),
        tokenizer=tokenizer,
        settings=settings,
        seed=seed,
        folder=data,
    )
    kind = cast("LabeledKind", get_kind(task))
    prepared = {text for split in ("train", "validation") for text in read_split(data, split)["text"]}
    train = kind.load_examples(given)["train"]
    train = train.filter(lambda text: text not in prepared, input_columns="text", keep_in_memory=True)
    drawn = train.shuffle(seed=seed, keep_in_memory=True).select(range(min(options.count, len(train))))
    return tokenize(drawn, tokenizer, settings, f"others{seed}{options.count}"), tokenizer


if __name__ == "__main__":
    main()

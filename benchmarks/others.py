"""The students that benchmarks.budgets left, on training examples that none of them has seen.

A validation split of a few hundred sentences tells students two points apart at best; a task whose training examples
were drawn (`--examples`) has thousands of others to score on, which no checkpoint was chosen by.

    python -m benchmarks.others --source ~/glue --tasks sst2 --seeds 1 --count 10000 --rows docs/others.csv

Prints a table of score with its 95 % interval, agreement with the teacher, and p of a paired bootstrap against the best
of its budget; a CSV of the same goes to --rows.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from stages.models.base import load
from stages.prepare import tokenized
from stages.settings import Data, Prepare
from stages.tasks import GLUE, Task, sources
from stages.tasks.batches import predict
from stages.tasks.metrics import scores
from stages.tasks.significance import interval, p_value, resampled
from stages.tasks.splits import read_split

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset
    from numpy import ndarray


def main() -> None:
    import pandas as pd
    from tabulate import tabulate

    options = _options()
    tables = [_scored(options, task, seed) for task in options.tasks for seed in options.seeds]
    table = pd.concat(tables)
    if options.rows:
        table.round(3).to_csv(options.rows, index=False)
    print(tabulate(table, headers="keys", tablefmt="github", floatfmt=".2f", showindex=False))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="data.source of the students")
    parser.add_argument("--tasks", nargs="+", default=["sst2"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--budgets", type=float, nargs="+", help="only students of these")
    parser.add_argument("--count", type=int, default=10_000, help="examples to score on, drawn with the seed")
    parser.add_argument("--work", type=Path, default=Path(".makd/budgets"), help="where benchmarks.budgets worked")
    parser.add_argument("--rows", type=Path, help="CSV to write")
    return parser.parse_args()


def _scored(options: argparse.Namespace, name: str, seed: int) -> "pd.DataFrame":
    """A row per student, by budget and score."""
    import pandas as pd

    task, place = GLUE[name], options.work / name / str(seed)
    rows, tokenizer = _others(options, name, task, seed, place / "prepare/data")
    folders = {"teacher-1": place / "finetune/model"} | {
        path.parent.name: path
        for path in sorted(place.glob("*-*/model"))
        if not (path.parent / "start").exists()  # its training has not ended
        and (options.budgets is None or float(path.parent.name.rsplit("-", 1)[1]) in options.budgets)
    }
    logits: dict[str, ndarray] = {}
    for student, folder in folders.items():
        logits[student], labels = predict(load(folder), rows, tokenizer, 64, student)
    values = resampled(task, {student: each[None] for student, each in logits.items()}, labels, 2000, seed)
    found = []
    for student, each in logits.items():
        recipe, budget = student.rsplit("-", 1)
        low, high = interval(values[student], seed)
        agree = 100 * (each.argmax(1) == logits["teacher-1"].argmax(1)).mean()
        score = scores(task, each, labels)[task.metrics[0]]
        found.append([name, seed, float(budget), recipe, score, low, high, agree])
    columns = ["task", "seed", "budget", "recipe", "score", "low", "high", "agreement"]
    table = pd.DataFrame(found, columns=columns).sort_values(["budget", "score"], ascending=False)
    best = table.groupby("budget").recipe.first()
    table["p"] = [
        float("nan")
        if recipe == best[budget]
        else p_value(values[f"{recipe}-{budget:g}"], values[f"{best[budget]}-{budget:g}"])
        for budget, recipe in zip(table.budget, table.recipe, strict=True)
    ]
    return table


def _others(options: argparse.Namespace, name: str, task: Task, seed: int, data: Path) -> "tuple[Dataset, object]":
    """Training examples whose text is in none of the prepared splits, tokenized as those are."""
    from transformers import AutoTokenizer

    seen = {text for split in ("train", "validation") for text in read_split(data, split)["text"]}
    train = sources.load(Data(source=options.source), name, task, 0.1, seed)["train"]
    train = train.filter(lambda text: text not in seen, input_columns="text", keep_in_memory=True)
    drawn = train.shuffle(seed=seed, keep_in_memory=True).select(range(min(options.count, len(train))))
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
    return tokenized(drawn, tokenizer, Prepare(), f"others{seed}{options.count}"), tokenizer


if __name__ == "__main__":
    main()

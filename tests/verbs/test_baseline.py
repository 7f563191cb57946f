"""baseline, and compare beside it: the table's figures are those of the stages before."""

from pathlib import Path

import pytest

from stages.baseline import make_baseline
from stages.compare import ComparisonInputs, compare
from stages.evaluate import evaluate
from stages.schema.task import CausalLMTask
from stages.settings import Compare, Evaluate, Factorize
from tests.makers.runs import make_work


@pytest.mark.parametrize("causal_chain", ["stories"], indirect=True)
def test_a_baseline_is_made_and_compared(causal_chain: Path, tmp_path: Path) -> None:
    """By hand: the table's scores, retention and perplexity are those of the stages before."""
    outputs, task = tmp_path / "outputs", CausalLMTask(kind="causal_lm")
    data, teacher = causal_chain / "prepare/data", causal_chain / "finetune/model"
    student, scoring = Factorize(budget=0.6, multiple_of=1, decomposition="svd"), Evaluate(bootstrap=200)
    baseline = make_baseline(
        student, None, scoring, make_work(outputs / "baseline/stories/kd/1"), data=data, teacher=teacher
    )["student"]
    models = {"teacher": teacher, "student": causal_chain / "factorize/model"}
    evaluated = evaluate(scoring, make_work(outputs / "evaluate/stories"), data=data, models=models)
    rows = evaluated | {"kd": baseline}
    inputs = ComparisonInputs(
        outputs=outputs,
        tasks={"stories": task},
        students={"student": (student, None), "kd": (student, None)},
        seeds=[1],
        resamples=200,
    )
    table = compare(Compare(), make_work(outputs / "compare"), inputs).set_index("model")
    for name, row in rows.items():
        shown = table.loc[name]
        assert shown["score"] == row["score"] and shown["perplexity"] == row["metrics"]["perplexity"]
        assert [shown[side] for side in ("low", "high")] == row["interval"]
        assert shown["retention"] == pytest.approx(100 * row["score"] / rows["teacher"]["score"])
    assert "perplexity" in (outputs / "compare/table.md").read_text()

"""The commands that make the documents' tables: their settings load, their arithmetic is right."""

from pathlib import Path

from benchmarks import peers
from benchmarks.budgets import plot, table
from stages.models.anatomy import Parts
from stages.settings import load

ROOT = Path(__file__).resolve().parent.parent


def rows() -> list[dict]:
    """Two seeds of a teacher and of one student, as a CSV file gives them."""
    cells = [("1", "teacher", 1, 80, ""), ("1", "teacher", 2, 90, "")]
    cells += [("0.5", "makd", 1, 78, 97.5), ("0.5", "makd", 2, 84, 93.3)]
    return [
        {
            "task": "sst2",
            "budget": b,
            "recipe": r,
            "seed": s,
            "score": str(x),
            "retention": str(k),
            "low": "",
            "high": "",
        }
        for b, r, s, x, k in cells
    ]


def test_the_settings_of_the_published_table_load():
    params = load(ROOT / "params.yaml", ROOT / "benchmarks/glue.yaml")
    assert params.tasks == ["sst2", "cola", "mrpc"]
    assert list(params.recipe("lowrank_kd")[1].objectives.active()) == ["kl"]
    assert params.finetune.epochs == 4 and params.finetune.learning_rate == 1e-4


def test_table_tells_mean_spread_and_retention(tmp_path):
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(rows()).splitlines()]
    assert found[2] == ["1", "teacher", "85.0 ± 7.1"]
    assert found[3] == ["0.5", "makd", "81.0 ± 4.2 (95.4 %)"]
    plot(rows(), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_a_peer_is_cut_to_its_budget_and_compared_with_both_teachers():
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=20, hidden_size=96, num_hidden_layers=2, intermediate_size=384)
    teacher = BertForSequenceClassification(config)
    sizes = [Parts(model).layer_parameters() for model in (peers._student(teacher, 0.5), teacher)]
    assert 0.49 < sizes[0] / sizes[1] <= 0.5
    rounds = {"teacher, fused": [[0.008], [0.004]], "teacher, fp32": [[0.004], [0.004]], "student": [[0.002], [0.002]]}
    last = peers._table(rounds, "real", 8).splitlines()[-1]
    assert [cell.strip() for cell in last.split("|")[1:-1]] == ["student", "2.0", "3.00", "2.00"]

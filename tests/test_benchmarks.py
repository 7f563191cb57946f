"""The commands that make the documents' tables: their settings load, their arithmetic is right."""

import argparse
import csv
import json
import sys
from pathlib import Path

import pytest
from conftest import reviews

from benchmarks import agnostic, peers, service
from benchmarks.budgets import append
from benchmarks.scratch import scratch
from benchmarks.tables import changes, plot, plot_changes, table
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


def cells(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines()]


def test_the_settings_of_the_published_table_load():
    params = load(ROOT / "params.yaml", ROOT / "benchmarks/glue.yaml")
    assert params.tasks == ["sst2", "cola", "mrpc"]
    assert list(params.recipe("lowrank_kd")[1].objectives.active()) == ["kl"]
    assert params.finetune.epochs == 4 and params.finetune.learning_rate == 1e-4


def test_table_tells_mean_spread_and_retention(tmp_path):
    found = cells(table(rows()))
    assert found[2] == ["1", "teacher", "85.0 ± 7.1"]
    assert found[3] == ["0.5", "makd", "81.0 ± 4.2 (95.4 %)"]
    plot(rows(), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


@pytest.mark.parametrize("rule", ["ratio", "speed"])
def test_a_peer_is_cut_to_its_budget_and_compared_with_both_teachers(rule):
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=20, hidden_size=96, num_hidden_layers=2, intermediate_size=384)
    teacher = BertForSequenceClassification(config)
    sizes = [Parts(model).layer_parameters() for model in (peers._student(teacher, 0.5, rule), teacher)]
    assert 0.49 < sizes[0] / sizes[1] <= 0.5
    rounds = {"teacher, fused": [[0.008], [0.004]], "teacher, fp32": [[0.004], [0.004]], "student": [[0.002], [0.002]]}
    last = peers._table(rounds, "real", 8).splitlines()[-1]
    assert [cell.strip() for cell in last.split("|")[1:-1]] == ["student", "2.0", "3.00", "2.00"]


def language_rows() -> list[dict]:
    """Two seeds of a student with and without ranking."""
    cells = [("kl", 1, 5.0, 60), ("kl", 2, 6.0, 62), ("kl_ranking", 1, 5.5, 61), ("kl_ranking", 2, 6.1, 64)]
    return [
        {"task": "stories", "budget": "0.5", "recipe": r, "seed": s, "retention": "90", "perplexity": p, "cr_1": c}
        for r, s, p, c in cells
    ]


def test_a_table_of_measures_has_a_column_for_each():
    found = cells(table(language_rows(), ["perplexity", "cr_1"]))
    assert found[0] == ["budget", "student", "perplexity", "cr_1"]
    assert found[2] == ["0.5", "kl", "5.50 ± 0.71", "61.00 ± 1.41"]


def test_what_ranking_changes_is_told_seed_by_seed(tmp_path):
    found = cells(changes(language_rows(), ["perplexity", "cr_1"], "ranking"))
    assert found[2:] == [["kl", "+0.30 ± 0.28", "+1.50 ± 0.71"]]
    plot_changes(language_rows(), ["perplexity", "cr_1"], "ranking", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_rows_go_into_the_columns_that_a_file_has(tmp_path):
    file, row = tmp_path / "rows.csv", {"task": "stories", "seed": 1, "score": 50.0, "cr_1": 60.0}
    append(file, row, ["task", "seed", "score"])
    append(file, row | {"seed": 2}, ["task", "seed", "score", "cr_1"])
    with file.open() as opened:
        assert list(csv.reader(opened)) == [
            ["task", "seed", "score"],
            ["stories", "1", "50.0"],
            ["stories", "2", "50.0"],
        ]


def test_language_recipes_differ_in_ranking_alone():
    params = load(ROOT / "params.yaml", ROOT / "benchmarks/language.yaml")
    makd = params.distill.objectives.active()
    for name in ("kl", "reverse_kl", "jsd", "skew_kl", "tvd", "akl"):
        student, training = params.recipe(name)
        other, ranked = params.recipe(f"{name}_ranking")
        alone, both = training.objectives.active(), ranked.objectives.active()
        assert student == other and list(alone) == [name] and list(both) == [name, "ranking"]
        assert alone[name] == both[name] and alone[name].temperature == alone[name].weight == 1
        assert training.model_copy(update={"objectives": None}) == ranked.model_copy(update={"objectives": None})
    assert params.recipe("makd_ranking")[1].objectives.active().items() > makd.items()
    paper = params.recipe("kl_ranking_paper")[1].objectives.ranking
    assert (paper.weight, paper.union, paper.epsilon) == (2, "concat", "fixed")
    scratch_too = load(ROOT / "params.yaml", ROOT / "benchmarks/language.yaml", ROOT / "benchmarks/wikitext.yaml")
    assert scratch_too.finetune.epochs > 0 and scratch_too.task("wikitext-2").documents == "articles"


def test_a_model_from_scratch_is_a_base_model(tmp_path, tiny_text, capsys):
    from stages.models.base import load_causal_lm, load_tokenizer
    from stages.settings import Base

    options = {"documents": "lines", "vocabulary": 300, "layers": 2, "hidden": 16, "heads": 2, "length": 32, "seed": 1}
    for name in ("one", "two"):
        scratch(argparse.Namespace(source=str(tiny_text / "stories"), output=tmp_path / name, **options))
    model, tokenizer = (each(Base(model=str(tmp_path / "one"))) for each in (load_causal_lm, load_tokenizer))
    assert model.config.vocab_size == len(tokenizer) == 300
    assert model.config.eos_token_id == tokenizer.eos_token_id
    said = "Once upon a time — naïve 你好"
    assert tokenizer.decode(tokenizer(said).input_ids) == said
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()
    assert f"{model.num_parameters():,} parameters" in capsys.readouterr().out


def test_pruned_models_are_made_and_fine_tuned(tmp_path, tiny_model, tiny_data):
    (tmp_path / "text.txt").write_text("".join(f"{text}\n" for text, _ in reviews(300)))
    custom = {"reviews": {"text": ["text"], "labels": ["bad", "good"]}}
    settings = {
        "base": {"model": str(tiny_model)},
        "data": {"custom": custom},
        "prepare": {"max_length": 32},
        "pack": {"block_length": 16},
        "pretrain": {"base": {"model": str(tiny_model)}, "head": {"steps": 1}},
        "prune": {"targets": [0.5], "validation_blocks": 8, "precision": "float32"},
        "finetune": {"epochs": 0.2, "precision": "float32"},
    }
    (tmp_path / "tiny.yaml").write_text(json.dumps(settings))
    params = load(ROOT / "params.yaml", tmp_path / "tiny.yaml")
    asked = {"corpus": str(tmp_path / "text.txt"), "source": str(tiny_data), "steps": 2, "examples": None}
    options = argparse.Namespace(work=tmp_path / "work", seed=1, **asked)
    agnostic._teacher(params, options)
    agnostic._data(params, options, "reviews")
    made = agnostic._student(params, options, "oneshot")
    assert [(row["made"], row["model"], row["measure"]) for row in made] == [
        *(("oneshot", "2x16", measure) for measure in ("perplexity", "accuracy", "discrepancy")),
        *(("whole", "teacher", measure) for measure in ("perplexity", "accuracy")),
    ]
    (tuned,) = agnostic._tuned(params, options, "reviews", made[0])
    assert float(tuned["low"]) <= float(tuned["value"]) <= float(tuned["high"])
    assert int(tuned["layer_parameters"]) == int(made[0]["layer_parameters"])


def test_the_service_is_compared_with_its_session(tmp_path, monkeypatch, capsys):
    from test_registered_model import exported

    folder = exported(tmp_path / "film", pair=False)
    (tmp_path / "texts").write_text("fine\na dull film\n")
    command = ["service", str(folder), "--texts", str(tmp_path / "texts"), "--rounds", "1", "--seconds", "0.2"]
    monkeypatch.setattr(sys, "argv", command)
    service.main()
    found = [float(cell) for cell in cells(capsys.readouterr().out)[-1][1:]]
    assert found[3] == pytest.approx(found[0] / found[1], abs=0.006) and min(found[:3]) > 1
    monkeypatch.setattr(sys, "argv", [*command[:3], str(tmp_path / "none")])
    with pytest.raises(SystemExit, match=r"service: .*none cannot be read"):
        service.main()

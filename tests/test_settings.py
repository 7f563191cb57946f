"""The settings: what ships parses, what cannot work is refused by name, every knob is explained."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from stages.corpora.corpus import Corpus
from stages.settings import BadInput, Baseline, Distill, Factorize, Params, describe, load
from stages.tasks import Task

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = yaml.safe_load((ROOT / "params.yaml").read_text())
VERBS = sorted(
    verb
    for verb in Params.model_fields
    if (ROOT / "stages" / f"{verb}.py").exists() or (ROOT / "serving" / f"{verb}.py").exists()
)


def module(verb: str) -> str:
    return f"stages.{verb}" if (ROOT / "stages" / f"{verb}.py").exists() else f"serving.{verb}"


def blocks(kind: Any) -> set[type[BaseModel]]:
    """A settings class and all that are nested in its fields, however deep."""
    found: set[type[BaseModel]] = set()
    for part in [kind, *getattr(kind, "__args__", ())]:
        if isinstance(part, type) and issubclass(part, BaseModel):
            found |= {part}.union(*(blocks(field.annotation) for field in part.model_fields.values()))
        elif part is not kind:
            found |= blocks(part)
    return found


def test_what_ships_parses() -> None:
    params = load(ROOT / "params.yaml")
    assert params.tasks == ["sentiment"] and params.base.model == "minilm" and params.data.source == "bundled"


def test_what_ships_are_the_defaults() -> None:
    """A key left out of params.yaml means what params.yaml shows."""
    deliberate = {"baseline.recipes", "finetune.learning_rate"}
    shipped, defaults = flat(load(ROOT / "params.yaml").model_dump()), flat(Params().model_dump())
    differ = {name for name in shipped if shipped[name] != defaults.get(name)}
    assert {name for name in differ if not name.startswith("recipes.")} == deliberate


def flat(values: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Nested dicts as one, the keys joined by dots."""
    found = {}
    for name, value in values.items():
        inner = isinstance(value, dict) and value
        found |= flat(value, f"{where}{name}.") if inner else {where + name: value}
    return found


def test_every_setting_is_shown() -> None:
    """Whoever reads params.yaml sees every knob of every block, but for the inner ones of objectives."""

    def missing(shown: dict, block: type[BaseModel], where: str) -> list[str]:
        found = []
        for name, field in block.model_fields.items():
            inner = field.annotation if isinstance(field.annotation, type) else None
            if name not in shown:
                found.append(where + name)
            elif inner and issubclass(inner, BaseModel) and name != "objectives":
                found += missing(shown[name], inner, f"{where}{name}.")
        return found

    assert missing(SHIPPED, Params, "") == []
    assert set(SHIPPED["distill"]["objectives"]) == set(Distill.model_fields["objectives"].annotation.model_fields)


@pytest.mark.parametrize("block", sorted(blocks(Params), key=lambda b: b.__name__), ids=lambda b: b.__name__)
def test_every_field_is_explained(block: type[BaseModel]) -> None:
    assert block.__doc__ and block.__doc__ != BaseModel.__doc__
    lines = block.model_fields.items()
    if block is Params:  # its blocks explain themselves
        lines = [(name, field) for name, field in lines if name in ("seed", "tasks", "corpora")]
    assert [name for name, field in lines if not field.description] == []


def test_blocks_are_closed_and_frozen() -> None:
    for block in blocks(Params):
        assert block.model_config["extra"] == "forbid" and block.model_config["frozen"], block


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("factorise: {budget: 0.5}", "factorise is not a setting"),
        ("factorize: {buget: 0.5}", "factorize.buget is not a setting"),
        ("distill: {objectives: {hiden: {weight: 1}}}", "distill.objectives.hiden is not a setting"),
        ("factorize: {budget: 1.5}", "factorize.budget = 1.5: Input should be less than or equal to 1"),
        ("factorize: {budget: half}", "factorize.budget = 'half': Input should be a valid number"),
        ("factorize: {decomposition: pca}", "factorize.decomposition = 'pca': Input should be 'svd'"),
        ("factorize: {depth: 3}", "factorize: depth 3 says nothing with layers all; use layers first, last or every"),
        ("factorize: {layers: [1, 2], depth: 2}", "depth 2 says nothing with layers [1, 2]"),
        ("factorize: {layers: [4, 2]}", "factorize: layers [4, 2] must count from 1 and ascend without repeats"),
        ("factorize: {layers: [2, 2]}", "layers [2, 2] must count from 1 and ascend without repeats"),
        ("factorize: {layers: [0, 1]}", "layers [0, 1] must count from 1 and ascend without repeats"),
        ("factorize: {layers: []}", "layers [] must count from 1 and ascend without repeats"),
        ("finetune: {batch_size: 0}", "finetune.batch_size = 0: Input should be greater than or equal to 1"),
        ("seed: -1", "seed = -1: "),
        ("tasks: []", "tasks = []: "),
        ("tasks: [sst3]", "tasks names `sst3`; known are sentiment, cola, sst2"),
        ("corpora: [wiki]", "corpora names `wiki`; known are bundled; describe your own under data.corpora"),
        ("corpora: [bundled, bundled]", "corpora names bundled twice"),
        ("data: {corpora: {wiki: {path: x}}}", "data.corpora.wiki.path is not a setting"),
        ("data: {corpora: {wiki: {source: x, documents: pages}}}", "data.corpora.wiki.documents = 'pages': Input"),
        ("pack: {tokens: 100}", "pack: tokens 100 do not fill a block of block_length 128"),
        ("baseline: {recipes: [magic]}", "baseline.recipes names `magic`; the recipes are none"),
        ("baseline: {seeds: [1, 2, 1]}", "baseline.seeds names 1 twice"),
        ("baseline: {seeds: []}", "baseline.seeds = []: "),
        ("compare: {limit: {}}", "compare.limit: limit names nothing; give one of latency_ms, params"),
        ("compare: {limit: {latency: 4}}", "compare.limit.latency is not a setting"),
        ("compare: {limit: {retention: 98}}", "compare.limit.retention = 98: Input should be less than or equal to 1"),
        ("distill: {stage_shares: [0.5, 0.3, 0.3]}", "stage_shares must sum to 1, not 1.1"),
        (
            "distill: {objectives: {kl: null, attention_kl: null, hidden: null, matrices: {weight: 0}}}",
            "objectives has no term with a weight above 0; give `kl` or `hard` one",
        ),
        ("export: {variants: [portable]}", "benchmark.variants has ['fp32', 'int8'], which export.variants"),
        ("tasks: [sst2, cola, sst2]", "tasks names sst2 twice"),
        ("recipes: {odd: {factorize: {budget: 2}}}", "recipes.odd changes what cannot be so: budget = 2: "),
        (
            "recipes: {odd: {distill: {epoch: 2}}}",
            "recipes.odd changes what cannot be so: epoch is not a setting",
        ),
        ("- factorize", "must hold blocks like `factorize:`, not ['factorize']"),
        ("factorize: [", "is not YAML: while parsing a flow node"),
        ("recipes: {a: {extends: b}}", "recipes.a.extends names `b`; it may extend none"),
        (
            "recipes: {a: {extends: b}, b: {extends: a}, c: {}}",
            "recipes.b.extends names `a`; it may extend c",
        ),
        ("distill: {objectives: {kl: {temperature: {start: 1, end: 2, shape: wave}}}}", "shape = 'wave': "),
        (
            "distill: {objectives: {hidden: {layers: some}}}",
            "distill.objectives.hidden.layers = 'some': Input should be 'skip', 'last'",
        ),
        ("distill: {objectives: {hidden: {layers: [[1, 2, 3]]}}}", "Tuple should have at most 2 items"),
        ("recipes: {odd: {distil: {}}}", "recipes.odd.distil is not a setting"),
        ("data: {custom: {mine: {labels: [one]}}}", "labels must name at least two classes, not ['one']"),
        ("data: {custom: {mine: {kind: regression}}}", "do not fit kind regression"),
    ],
)
def test_what_cannot_work_is_refused_by_name(tmp_path: Path, change: str, sentence: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(change)
    with pytest.raises(BadInput) as refusal:
        load(path)
    message = str(refusal.value)
    assert sentence in message and str(path) in message
    assert "\n" not in message and "pydantic" not in message, "one sentence, for people"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"run from the folder that holds params\.yaml"):
        load(tmp_path / "none.yaml")


def test_recipes_change_what_they_name_and_nothing_else() -> None:
    params = load(ROOT / "params.yaml")
    student, training = params.recipe("svd")
    assert student == params.factorize.model_copy(update={"decomposition": "svd"}) and training is None
    student, training = params.recipe("lowrank_kd")
    assert student == params.factorize and training is not None
    assert list(training.objectives.active()) == ["kl"]
    assert training.objectives.kl.temperature == 2.0, "a partial override keeps the block's other values"
    assert training == params.distill.model_copy(update={"objectives": training.objectives})
    _, training = params.recipe("lowrank_finetune")
    assert list(training.objectives.active()) == ["hard"] and training.dropout == 0.1


FAMILY = """
factorize: {budget: 0.25}
distill: {epochs: 7, objectives: {kl: {temperature: 3}}}
recipes:
  parent:
    factorize: {rank_rule: ratio}
    distill: {learning_rate: 0.1, objectives: {kl: {weight: 2}, hidden_cosine: {}}}
  child: {extends: parent, factorize: {budget: 0.5}, distill: {epochs: 1}}
  other_terms: {extends: child, distill: {objectives: {kl: {}, hard: {}}}}
  untrained: {extends: child, distill: null}
  trained_again: {extends: untrained, distill: {epochs: 2}}
"""


def test_a_recipe_extends_another(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(FAMILY)
    params = load(tmp_path / "params.yaml")
    student, training = params.recipe("child")
    assert student == Factorize(budget=0.5, rank_rule="ratio")
    assert (training.epochs, training.learning_rate) == (1, 0.1)
    assert list(training.objectives.active()) == ["kl", "hidden_cosine"], "those it names, no others"
    assert (training.objectives.kl.weight, training.objectives.kl.temperature) == (2, 3)
    _, training = params.recipe("other_terms")
    assert list(training.objectives.active()) == ["hard", "kl"] and training.objectives.kl.weight == 2
    student, training = params.recipe("untrained")
    assert training is None and student.budget == 0.5
    _, training = params.recipe("trained_again")
    assert training == params.distill.model_copy(update={"epochs": 2}), "nothing is left of training that was null"


def test_recipes_are_written_out_and_read_back(tmp_path: Path) -> None:
    from stages.recipes import read_recipe, recipes

    (tmp_path / "params.yaml").write_text(FAMILY)
    params = load(tmp_path / "params.yaml")
    recipes(params, output=tmp_path)
    for name in params.recipes:
        assert read_recipe(tmp_path / f"settings/{name}.yaml") == params.recipe(name)


def test_another_model_to_start_from_is_another_recipe(tmp_path: Path) -> None:
    """DVC sees no more of it than the recipe's file, which still reads back as the recipe."""
    from stages.recipes import read_recipe, recipes

    start = tmp_path / "pruned"
    texts = []
    for content in (None, "one", "two", "two"):
        if content:
            start.mkdir(exist_ok=True)
            (start / "model.safetensors").write_text(content)
        params = Params(recipes={"pruned": {"factorize": {"start": str(start)}}})
        place = tmp_path / str(len(texts))
        place.mkdir()
        recipes(params, output=place)
        assert read_recipe(place / "settings/pruned.yaml") == params.recipe("pruned")
        texts.append((place / "settings/pruned.yaml").read_text())
    assert len(set(texts)) == 3 and texts[2] == texts[3]


def test_a_change_reaches_the_recipes_that_it_concerns_and_no_others(tmp_path: Path) -> None:
    """DVC runs a baseline again when its file here changes."""
    from stages.recipes import recipes

    def written(text: str) -> dict[str, str]:
        (tmp_path / "params.yaml").write_text(text)
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        place.mkdir()
        recipes(load(tmp_path / "params.yaml"), output=place)
        return {file.stem: file.read_text() for file in (place / "settings").iterdir()}

    def changed(old: str, new: str) -> set[str]:
        before, after = written(FAMILY), written(FAMILY.replace(old, new))
        return {name for name in after if after[name] != before.get(name)}

    assert changed("learning_rate: 0.1", "learning_rate: 0.2") == {"parent", "child", "other_terms"}
    assert changed("extends: untrained, distill: {epochs: 2}", "extends: untrained, distill: {epochs: 3}") == {
        "trained_again"
    }
    assert changed("{budget: 0.25}", "{budget: 0.3}") == {"parent"}, "the others have a budget of their own"


def test_a_recipe_follows_the_main_chain(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump(SHIPPED | {"factorize": {"budget": 0.25}, "distill": {"epochs": 7}})
    )
    student, training = load(tmp_path / "params.yaml").recipe("lowrank_kd")
    assert student == Factorize(budget=0.25) and training.epochs == 7


def test_a_task_of_ones_own() -> None:
    params = Params(tasks=["mine"], data={"source": "x", "custom": {"mine": {"labels": ["a", "b"]}}})
    assert params.task("mine") == Task(labels=["a", "b"])


def test_a_corpus_of_ones_own() -> None:
    params = Params(corpora=["wiki", "bundled"], data={"corpora": {"wiki": {"source": "x"}}})
    assert params.corpus("wiki") == Corpus(source="x") and params.corpus("bundled").source == "bundled"


@pytest.mark.parametrize("verb", VERBS)
def test_help_prints_the_whole_block(verb: str) -> None:
    command = [sys.executable, "-m", module(verb), "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for block in blocks(Params.model_fields[verb].annotation):
        for name, field in block.model_fields.items():
            assert f" {name}" in shown, f"{verb} --help lacks {name}"
            for line in (field.description or "").splitlines():
                assert line.strip() in shown


def test_describe_indents_nested_blocks() -> None:
    assert "\n  calibration\n" in describe(Factorize) and "\n      examples = 1024\n" in describe(Factorize)


def test_a_seed_given_by_name_takes_the_place_of_the_one_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """What DVC calls `baseline@sentiment-svd-7` works with seed 7, in a folder of its own."""
    from stages.command import command

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAKD_TRACKING", "off")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(SHIPPED))
    words = ["baseline", "--task", "sentiment", "--recipe", "svd", "--seed"]
    monkeypatch.setattr(sys, "argv", [*words, "7"])
    with command(Baseline, "doc", "task", "recipe", "seed") as job:
        assert (job.params.seed, job.recipe, job.params.recipe("svd")[1]) == (7, "svd", None)
        assert job.state == Path(".makd/state/baseline/sentiment/svd/7")
        with pytest.raises(BadInput, match="run `dvc repro baseline@sentiment-svd-7` first"):
            job.of("baseline", "svd", "7", "model")
        (job.output / "made.txt").write_text("")
    assert (tmp_path / "outputs/baseline/sentiment/svd/7/made.txt").is_file()
    monkeypatch.setattr(sys, "argv", [*words, "x"])
    with pytest.raises(SystemExit, match="baseline: --seed x: a whole number from 0 on is needed"):
        command(Baseline, "doc", "task", "recipe", "seed").__enter__()

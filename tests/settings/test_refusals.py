"""Settings that cannot work are refused by name, in one sentence for people."""

from pathlib import Path

import pytest

from stages.errors import BadInput
from stages.settings import read_params

UNKNOWN = [
    ("factorise: {budget: 0.5}", "factorise is not a setting"),
    ("factorize: {buget: 0.5}", "factorize.buget is not a setting"),
    ("distill: {objectives: {hiden: {weight: 1}}}", "distill.objectives.hiden is not a setting"),
    ("data: {corpora: {wiki: {path: x}}}", "data.corpora.wiki.path is not a setting"),
    ("compare: {limit: {latency: 4}}", "compare.limit.latency is not a setting"),
    ("recipes: {odd: {distil: {}}}", "recipes.odd.distil is not a setting"),
    ("- factorize", "must hold blocks like `factorize:`, not ['factorize']"),
    ("factorize: [", "is not YAML: while parsing a flow node"),
    ("race: {enabled: true}", "`race` is now called `time_baselines`"),
    ("pack: {tokens: 100}", "pack: `tokens` is now called `max_tokens`"),
    ("distill: {hierarchy: layers}", "distill: `hierarchy: layers` is now called `hierarchy: joint`"),
]
OUT_OF_RANGE = [
    ("factorize: {budget: 1.5}", "factorize.budget = 1.5: Input should be less than or equal to 1"),
    ("factorize: {budget: half}", "factorize.budget = 'half': Input should be a valid number"),
    ("factorize: {decomposition: pca}", "factorize.decomposition = 'pca': Input should be 'svd'"),
    ("finetune: {batch_size: 0}", "finetune.batch_size = 0: Input should be greater than or equal to 1"),
    ("seed: -1", "seed = -1: "),
    ("tasks: []", "tasks = []: "),
    ("data: {corpora: {wiki: {source: x, documents: pages}}}", "data.corpora.wiki.documents = 'pages': Input"),
    ("baseline: {seeds: []}", "baseline.seeds = []: "),
    ("compare: {limit: {retention: 98}}", "compare.limit.retention = 98: Input should be less than or equal to 1"),
    ("distill: {objectives: {kl: {temperature: {start: 1, end: 2, shape: wave}}}}", "shape = 'wave': "),
    (
        "distill: {objectives: {hidden: {layers: some}}}",
        "distill.objectives.hidden.layers = 'some': Input should be 'skip', 'last'",
    ),
    ("distill: {objectives: {hidden: {layers: [[1, 2, 3]]}}}", "Tuple should have at most 2 items"),
]
COMBINATIONS = [
    ("factorize: {depth: 3}", "factorize: depth 3 has no meaning with layers all; use layers first, last or every"),
    ("factorize: {layers: [1, 2], depth: 2}", "depth 2 has no meaning with layers [1, 2]"),
    ("factorize: {layers: [4, 2]}", "factorize: layers [4, 2] must count from 1 and ascend without repeats"),
    ("factorize: {layers: [2, 2]}", "layers [2, 2] must count from 1 and ascend without repeats"),
    ("factorize: {layers: [0, 1]}", "layers [0, 1] must count from 1 and ascend without repeats"),
    ("factorize: {layers: []}", "layers [] must count from 1 and ascend without repeats"),
    ("pack: {max_tokens: 100}", "pack: max_tokens 100 do not fill a block of block_length 128"),
    ("compare: {limit: {}}", "compare.limit: limit names nothing; give one of latency_ms, params"),
    ("distill: {phase_shares: [0.5, 0.3, 0.3]}", "phase_shares must sum to 1, not 1.1"),
    (
        "distill: {objectives: {kl: null, attention_kl: null, hidden: null, matrices: {weight: 0}}}",
        "objectives has no term with a weight above 0; give `kl` or `hard` one",
    ),
    ("distill: {objectives: {}}", "distill: objectives has no term with a weight above 0; give `kl` or `hard` one"),
    ("export: {variants: [portable]}", "benchmark.variants has ['fp32', 'int8'], which export.variants"),
]
NAMES = [
    ("tasks: [sst3]", "tasks names `sst3`; known are sentiment, cola, sst2"),
    ("tasks: [sst2, cola, sst2]", "tasks names sst2 twice"),
    ("corpora: [wiki]", "corpora names `wiki`; known are bundled; describe your own under data.corpora"),
    ("corpora: [bundled, bundled]", "corpora names bundled twice"),
    ("baseline: {recipes: [magic]}", "baseline.recipes names `magic`; the recipes are svd, whitened, "),
    ("baseline: {seeds: [1, 2, 1]}", "baseline.seeds names 1 twice"),
]
RECIPES = [
    (
        "recipes: {odd: {factorize: {budget: 2}}}",
        "recipes.odd cannot work: budget = 2: Input should be less than or equal to 1",
    ),
    ("recipes: {odd: {distill: {epoch: 2}}}", "recipes.odd cannot work: epoch is not a setting"),
    (
        "recipes: {odd: {factorize: {start: x}}}",
        "recipes.odd cannot work: `start` is now called `pretrained_student`",
    ),
    ("recipes: {a: {extends: b}}", "recipes.a.extends names `b`; it may extend svd, whitened, "),
    ("recipes: {a: {extends: b}, b: {extends: a}, c: {}}", "recipes.b.extends names `a`; it may extend svd, "),
    ("recipes: {a: {extends: b}, b: {extends: a}, c: {}}", "minilmv2_agnostic, c"),
]


@pytest.mark.parametrize(("change", "sentence"), UNKNOWN + OUT_OF_RANGE + COMBINATIONS + NAMES + RECIPES)
def test_what_cannot_work_is_refused_by_name(tmp_path: Path, change: str, sentence: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(change)
    with pytest.raises(BadInput) as refusal:
        read_params(path)
    message = str(refusal.value)
    assert sentence in message and str(path) in message
    assert "\n" not in message and "pydantic" not in message, "one sentence, for people"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"run from the folder that holds params\.yaml"):
        read_params(tmp_path / "none.yaml")


def test_later_files_change_single_settings(tmp_path: Path) -> None:
    texts = ["{seed: 1, factorize: {budget: 0.25, layers: every}}", "factorize: {layers: last}", "seed: 3"]
    files = [tmp_path / f"{number}.yaml" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    params = read_params(*files)
    assert (params.seed, params.factorize.budget, params.factorize.layers) == (3, 0.25, "last")

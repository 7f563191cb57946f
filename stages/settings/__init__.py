"""The one way in for settings: `params.yaml` becomes frozen objects, one block per verb.

`params.py` read top to bottom is `params.yaml`; the other files explain its blocks. Unknown keys, values out of range
and combinations that cannot work are refused by name before anything is computed. Nothing heavy is imported here, so
that every verb's `--help` answers at once.
"""

from stages.settings.baselines import Baseline, Recipe, TimeBaselines
from stages.settings.data import Augment, Base, Data, HeadTraining, Pack, Prepare
from stages.settings.distill import Distill, Offline, OnPolicy
from stages.settings.factorize import Calibration, Factorize
from stages.settings.params import Params
from stages.settings.pruning import Pretrain, Prune, Target
from stages.settings.read import read_params
from stages.settings.results import (
    Benchmark,
    Compare,
    Evaluate,
    Export,
    Generation,
    Limit,
    Promote,
    Tracking,
    Variant,
)
from stages.settings.training import Finetune, TaskTraining, Training

__all__ = [
    "Augment",
    "Base",
    "Baseline",
    "Benchmark",
    "Calibration",
    "Compare",
    "Data",
    "Distill",
    "Evaluate",
    "Export",
    "Factorize",
    "Finetune",
    "Generation",
    "HeadTraining",
    "Limit",
    "Offline",
    "OnPolicy",
    "Pack",
    "Params",
    "Prepare",
    "Pretrain",
    "Promote",
    "Prune",
    "Recipe",
    "Target",
    "TaskTraining",
    "TimeBaselines",
    "Tracking",
    "Training",
    "Variant",
    "read_params",
]

"""The one way in for settings: `params.yaml` becomes frozen objects, one block per verb.

`params.py` read top to bottom is `params.yaml`; `data.py`, `models.py` and `results.py` explain its blocks. Unknown
keys, values out of range and combinations that cannot work are refused by name before anything is computed. Nothing
heavy is imported here, so that every verb's `--help` answers at once.
"""

from stages.settings.agnostic import Pretrain, Prune, Target
from stages.settings.block import BadInput, Block
from stages.settings.data import Augment, Base, Data, Pack, Prepare, Warmup
from stages.settings.models import Calibration, Distill, Factorize, Finetune, Offline, OnPolicy, TaskTraining, Training
from stages.settings.params import Params
from stages.settings.read import load
from stages.settings.report import describe
from stages.settings.results import (
    Answers,
    Baseline,
    Benchmark,
    Compare,
    Evaluate,
    Export,
    Limit,
    Promote,
    Race,
    Recipe,
    Tracking,
)

__all__ = [
    "Answers",
    "Augment",
    "BadInput",
    "Base",
    "Baseline",
    "Benchmark",
    "Block",
    "Calibration",
    "Compare",
    "Data",
    "Distill",
    "Evaluate",
    "Export",
    "Factorize",
    "Finetune",
    "Limit",
    "Offline",
    "OnPolicy",
    "Pack",
    "Params",
    "Prepare",
    "Pretrain",
    "Promote",
    "Prune",
    "Race",
    "Recipe",
    "Target",
    "TaskTraining",
    "Tracking",
    "Training",
    "Warmup",
    "describe",
    "load",
]

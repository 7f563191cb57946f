"""The ONNX folder in the making: each variant traced or converted, checked, and kept or refused."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.graph import check, quantize, trace
from stages.graph.card import write_config, write_manifest
from stages.settings import BadInput, Export

if TYPE_CHECKING:
    from numpy import ndarray

    from stages.tasks import Task

FILES = {
    "fp32": "onnx/model.onnx",
    "portable": "onnx/model_portable.onnx",
    "fp16": "onnx/model_fp16.onnx",
    "int8": "onnx/model_int8.onnx",
}


class Folder:
    """Teacher or student on its way into a folder; `facts` becomes the manifest.

    Args:
        model: the folder of the PyTorch model.
        data: what prepare froze.

    Raises:
        BadInput: the task's kind has no graph.
    """

    def __init__(
        self, folder: Path, settings: Export, facts: dict[str, Any], *, task: "Task", model: Path, data: Path
    ) -> None:
        from transformers import AutoTokenizer

        from stages.models.base import load
        from stages.tasks.splits import read_split

        if task.kind == "causal_lm":
            raise BadInput(
                "a causal_lm task has no graph yet; leave out export and benchmark, and set race.enabled to false"
            )
        self.folder, self.settings, self.task = folder, settings, task
        self.train, self.validation = read_split(data, "train"), read_split(data, "validation")
        self.model = load(model)
        tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
        columns = ("input_ids", "attention_mask", "token_type_ids")
        self.inputs = [name for name in columns if name in self.validation.column_names]
        self.samples = list(check.shapes(self.validation, tokenizer, self.inputs))
        self.facts = facts | {
            "low_rank": trace.base(self.model) is not self.model,
            "positions": trace.positions(self.model),
            "inputs": self.inputs,
            "variants": {},
        }
        (folder / "onnx").mkdir()
        write_config(folder, trace.base(self.model), tokenizer, facts["max_length"])

    def build(self, variants: list[str], *, evaluated: float, seed: int) -> None:
        """Makes `fp32` and the variants.

        Raises:
            BadInput: a float32 graph differs from PyTorch, or the folder does not give the evaluated score.
        """
        from tqdm import tqdm

        for variant in tqdm(dict.fromkeys(["fp32", *variants]), desc=f"export: {self.facts['role']}", unit="graph"):
            row = self.add(variant, seed)
            if variant == "fp32":
                self._logits = self._score("fp32")
                check.same_score(self.task, row["score"], evaluated, len(self.validation))
            elif variant in ("fp16", "int8"):
                self._score(variant)
                self._refuse_loss(variant)

    def add(self, variant: str, seed: int) -> dict[str, Any]:
        """Makes one variant and returns its row of the manifest; no score is taken.

        Raises:
            BadInput: a float32 graph differs from PyTorch.
        """
        self._make(variant, seed)
        row = self._measure(variant)
        if variant in trace.OPSETS:
            self._require_parity(variant, row["difference"])
        return row

    def _make(self, variant: str, seed: int) -> None:
        target = self.folder / FILES[variant]
        if variant in trace.OPSETS:
            trace.trace(self.model, self.inputs, target, opset=trace.OPSETS[variant])
        elif variant == "fp16":
            quantize.to_fp16(self.folder / FILES["fp32"], target)
        else:
            count = min(self.settings.calibration_examples, len(self.train))
            rows = self.train.shuffle(seed=seed, keep_in_memory=True).select(range(count))
            quantize.to_int8(self.folder / FILES["fp32"], target, check.singles(rows, self.inputs))

    def _measure(self, variant: str) -> dict[str, Any]:
        import onnx

        path = self.folder / FILES[variant]
        row = {
            "file": FILES[variant],
            "opset": next(o.version for o in onnx.load(path).opset_import if o.domain == ""),
            "bytes": path.stat().st_size,
            "difference": check.difference(self.model, path, self.samples),
        }
        self.facts["variants"][variant] = row
        return row

    def _require_parity(self, variant: str, found: float) -> None:
        if not found <= self.settings.tolerance:  # also for NaN
            raise BadInput(
                f"export.tolerance is {self.settings.tolerance:g}, but a logit of the {variant} graph is "
                f"{found:.2g} from PyTorch's; set it above that, or take {variant} from export.variants"
            )

    def _score(self, variant: str) -> "ndarray":
        """Score from raw text through the finished folder."""
        import torch

        from serving.predictor import Predictor
        from stages.tasks.metrics import scores

        write_manifest(self.folder, self.facts)
        predictor = Predictor(self.folder, variant, threads=torch.get_num_threads())
        if variant == "fp32":
            check.same_tokens(predictor, self.validation)
        logits = predictor.logits(check.texts(self.validation))
        row = self.facts["variants"][variant]
        row["metrics"] = scores(self.task, logits, self.validation["labels"])
        row["score"] = row["metrics"][self.task.metrics[0]]
        if variant != "fp32" and self.task.kind == "classification":
            row["agreement"] = 100 * float((logits.argmax(-1) == self._logits.argmax(-1)).mean())
        return logits

    def _refuse_loss(self, variant: str) -> None:
        """Leaves a variant out that loses more than `int8_score_drop` points against fp32, and says so."""
        row, whole = self.facts["variants"][variant], self.facts["variants"]["fp32"]["score"]
        if row["score"] >= whole - self.settings.int8_score_drop:
            return
        (self.folder / row.pop("file")).unlink()
        row["refused"] = (
            f"{self.task.metrics[0]} {row['score']:.2f} against {whole:.2f} of fp32, "
            f"more than export.int8_score_drop {self.settings.int8_score_drop:g} points below"
        )

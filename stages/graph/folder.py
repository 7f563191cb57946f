"""The ONNX folder in the making: each variant traced or converted, checked, and kept or refused."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.graph import quantize, trace
from stages.graph.card import write_config, write_manifest
from stages.graph.rewrite import rewrite
from stages.settings import BadInput, Export

if TYPE_CHECKING:
    from numpy import ndarray

    from stages.graph.subject import Subject

FILES = {
    "fp32": "onnx/model.onnx",
    "portable": "onnx/model_portable.onnx",
    "fp16": "onnx/model_fp16.onnx",
    "int8": "onnx/model_int8.onnx",
}


class Folder:
    """Teacher or student on its way into a folder; `facts` becomes the manifest."""

    def __init__(self, folder: Path, settings: Export, facts: dict[str, Any], subject: "Subject") -> None:
        self.folder, self.settings, self.subject = folder, settings, subject
        model = subject.model
        self.facts = facts | subject.facts
        self.facts |= {
            "low_rank": trace.base(model) is not model,
            "positions": trace.positions(model),
            "variants": {},
        }
        (folder / "onnx").mkdir()
        write_config(folder, trace.base(model), subject.tokenizer)
        subject.write_beside(folder)

    def build(self, variants: list[str], *, evaluated: float, seed: int) -> None:
        """Makes `fp32` and the variants.

        Args:
            evaluated: the score that evaluate found.

        Raises:
            BadInput: a float32 graph differs from PyTorch, or the folder does not give the evaluated score.
        """
        from tqdm import tqdm

        whole = None
        for variant in tqdm(dict.fromkeys(["fp32", *variants]), desc=f"export: {self.facts['role']}", unit="graph"):
            row = self.add(variant, seed)
            if variant == "fp32":
                whole = self._score("fp32")
                self.subject.check_score(row["score"], evaluated)
            elif variant in ("fp16", "int8"):
                said = self._score(variant)
                if said is not None:
                    row["agreement"] = 100 * float((said == whole).mean())
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
        target, whole = self.folder / FILES[variant], self.folder / FILES["fp32"]
        if variant in trace.OPSETS:
            self.subject.trace(target, trace.OPSETS[variant])
            if variant == "fp32":
                rewrite(target)
        elif variant == "fp16":
            quantize.to_fp16(whole, target)
        else:
            quantize.to_int8(whole, target, self.subject.feeds(whole, self.settings.calibration_examples, seed))

    def _measure(self, variant: str) -> dict[str, Any]:
        import onnx

        path = self.folder / FILES[variant]
        row = {
            "file": FILES[variant],
            "opset": next(o.version for o in onnx.load(path).opset_import if o.domain == ""),
            "bytes": path.stat().st_size,
            **self.subject.compare(path),
        }
        self.facts["variants"][variant] = row
        return row

    def _require_parity(self, variant: str, found: float) -> None:
        if not found <= self.settings.tolerance:  # also for NaN
            raise BadInput(
                f"export.tolerance is {self.settings.tolerance:g}, but a logit of the {variant} graph is "
                f"{found:.2g} from PyTorch's; set it above that, or take {variant} from export.variants"
            )

    def _score(self, variant: str) -> "ndarray | None":
        """Scores the finished folder; returns the class of each prediction, where there are classes."""
        write_manifest(self.folder, self.facts)
        row = self.facts["variants"][variant]
        row["metrics"], said = self.subject.score(self.folder, variant)
        row["score"] = row["metrics"][self.subject.metric]
        return said

    def _refuse_loss(self, variant: str) -> None:
        """Leaves a variant out that loses more than `int8_score_drop` points against fp32, and says so."""
        row, whole = self.facts["variants"][variant], self.facts["variants"]["fp32"]["score"]
        if row["score"] >= whole - self.settings.int8_score_drop:
            return
        (self.folder / row.pop("file")).unlink()
        row["refused"] = (
            f"{self.subject.metric} {row['score']:.2f} against {whole:.2f} of fp32, "
            f"more than export.int8_score_drop {self.settings.int8_score_drop:g} points below"
        )

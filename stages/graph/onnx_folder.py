"""The exported folder in the making: each variant traced or converted, checked, and kept or refused."""

from pathlib import Path
from typing import Any

import onnx
from numpy import ndarray

from stages.errors import BadInput
from stages.graph import quantize
from stages.graph.card import write_config, write_manifest
from stages.graph.exporter import Exporter
from stages.graph.rewrite import rewrite_graph
from stages.graph.trace import OPSETS, get_max_positions
from stages.models.anatomy import unwrap_low_rank
from stages.progress import track
from stages.settings import Export

FILES = {
    "fp32": "onnx/model.onnx",
    "portable": "onnx/model_portable.onnx",
    "fp16": "onnx/model_fp16.onnx",
    "int8": "onnx/model_int8.onnx",
}


class OnnxFolder:
    """Teacher or student being exported to a folder; `facts` becomes the manifest."""

    def __init__(self, folder: Path, settings: Export, facts: dict[str, Any], exporter: Exporter) -> None:
        self.folder, self.settings, self.exporter = folder, settings, exporter
        model = exporter.model
        base = unwrap_low_rank(model)
        self.facts = facts | exporter.facts
        self.facts |= {"low_rank": base is not model, "positions": get_max_positions(model), "variants": {}}
        (folder / "onnx").mkdir()
        write_config(folder, base, exporter.tokenizer)
        exporter.write_files(folder)

    def build_variants(self, variants: list[str], *, evaluated: float, seed: int) -> None:
        """Makes `fp32` and the variants.

        Args:
            evaluated: evaluate's score.

        Raises:
            BadInput: a float32 graph differs from PyTorch, or the folder does not reproduce the evaluated score.
        """
        reference = None
        title = f"export: {self.facts['role']}"
        for variant in track(list(dict.fromkeys(["fp32", *variants])), title, unit="graphs"):
            row = self.add_variant(variant, seed)
            if variant == "fp32":
                reference = self._score("fp32")
                self.exporter.require_score(row["score"], evaluated)
            elif variant in ("fp16", "int8"):
                predicted = self._score(variant)
                if predicted is not None:
                    row["agreement"] = 100 * float((predicted == reference).mean())
                self._refuse_score_drop(variant)

    def add_variant(self, variant: str, seed: int) -> dict[str, Any]:
        """Makes one variant and returns its row of the manifest; no score is taken.

        Raises:
            BadInput: a float32 graph differs from PyTorch.
        """
        self._make_graph(variant, seed)
        row = self._measure(variant)
        if variant in OPSETS:
            self._require_parity(variant, row["difference"])
        return row

    def _make_graph(self, variant: str, seed: int) -> None:
        target, source = self.folder / FILES[variant], self.folder / FILES["fp32"]
        if variant in OPSETS:
            self.exporter.export_graph(target, OPSETS[variant])
            if variant == "fp32":
                rewrite_graph(target)
        elif variant == "fp16":
            quantize.to_fp16(source, target)
        else:
            feeds = self.exporter.make_feeds(source, self.settings.calibration_examples, seed)
            quantize.to_int8(source, target, feeds)

    def _measure(self, variant: str) -> dict[str, Any]:
        path = self.folder / FILES[variant]
        row = {
            "file": FILES[variant],
            "opset": next(o.version for o in onnx.load(path).opset_import if o.domain == ""),
            "bytes": path.stat().st_size,
            **self.exporter.compare_with_torch(path),
        }
        self.facts["variants"][variant] = row
        return row

    def _require_parity(self, variant: str, difference: float) -> None:
        if not difference <= self.settings.tolerance:  # also for NaN
            raise BadInput(
                f"export.tolerance is {self.settings.tolerance:g}, but a logit of the {variant} graph is "
                f"{difference:.2g} from PyTorch's; set it above that, or take {variant} from export.variants"
            )

    def _score(self, variant: str) -> ndarray | None:
        """Scores the finished folder; returns the class of each prediction, where there are classes."""
        write_manifest(self.folder, self.facts)
        row = self.facts["variants"][variant]
        row["metrics"], predicted = self.exporter.score(self.folder, variant)
        row["score"] = row["metrics"][self.exporter.metric]
        return predicted

    def _refuse_score_drop(self, variant: str) -> None:
        """Removes a variant that loses more than `int8_score_drop` points against fp32, and says why."""
        row, reference = self.facts["variants"][variant], self.facts["variants"]["fp32"]["score"]
        if row["score"] >= reference - self.settings.int8_score_drop:
            return
        (self.folder / row.pop("file")).unlink()
        row["refused"] = (
            f"{self.exporter.metric} {row['score']:.2f} against {reference:.2f} of fp32, "
            f"more than export.int8_score_drop {self.settings.int8_score_drop:g} points below"
        )

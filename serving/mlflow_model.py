"""The exported folder behind MLflow's interface.

    mlflow.pyfunc.load_model("models:/makd-sst2@champion").predict(["a fine film"])

MLflow copies this file beside the weights and runs it when the model is loaded; the work is the predictor's.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.pyfunc import PythonModel, PythonModelContext

if TYPE_CHECKING:
    from serving.generator import Generator


class TextModel(PythonModel):
    """Texts (or pairs) in, one `{label, score}` each out; of a language model `{text}`, the likeliest continuation."""

    def load_context(self, context: PythonModelContext) -> None:
        from serving.opening import open_model

        model = open_model(Path(context.artifacts["model"]))
        self._answer = partial(_continued, model) if model.generates else model.predict

    def predict(
        self,
        context: PythonModelContext,
        model_input,  # no type hint: MLflow would take it for the schema
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Answers a table with the columns of the signature: one text, or `text` and `text_pair`."""
        columns = [model_input[name].tolist() for name in model_input.columns]
        return self._answer(columns[0] if len(columns) == 1 else list(zip(*columns, strict=True)))


def _continued(generator: "Generator", prompts: list[str]) -> list[dict[str, str]]:
    return [{"text": answer.text} for answer in generator.generate(prompts)]


mlflow.models.set_model(TextModel())

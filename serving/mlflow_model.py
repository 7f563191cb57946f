"""The exported folder behind MLflow's interface.

    mlflow.pyfunc.load_model("models:/makd-sst2@champion").predict(["a fine film"])

MLflow copies this file beside the weights and runs it when the model is loaded; the work is the predictor's.
"""

import warnings
from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc import PythonModel, PythonModelContext

# `predict` has no type hint on purpose: MLflow would take it for the schema
warnings.filterwarnings("ignore", message=".*Add type hints to the `predict` method")


class TextModel(PythonModel):
    """Texts (or pairs) in, one `{label, score}` each out; of a language model `{text}`, the greedy continuation."""

    def load_context(self, context: PythonModelContext) -> None:
        from serving.opening import open_model

        self._model = open_model(Path(context.artifacts["model"]))

    def predict(
        self,
        context: PythonModelContext,
        model_input,
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Answers a table with the columns of the signature: one text, or `text` and `text_pair`."""
        columns = [model_input[name].tolist() for name in model_input.columns]
        return self._model.answer(columns[0] if len(columns) == 1 else list(zip(*columns, strict=True)))


mlflow.models.set_model(TextModel())

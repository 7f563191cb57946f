"""The exported folder behind MLflow's interface.

    mlflow.pyfunc.load_model("models:/makd-sst2@champion").predict(["a fine film"])

MLflow copies this file beside the weights and runs it when the model is loaded; the work is the predictor's.
"""

from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc import PythonModel, PythonModelContext


class TextModel(PythonModel):
    """Texts (or pairs) in, one `{label, score}` each out."""

    def load_context(self, context: PythonModelContext) -> None:
        from serving.predictor import Predictor

        self._predictor = Predictor(Path(context.artifacts["model"]))

    def predict(
        self,
        context: PythonModelContext,
        model_input,  # no type hint: MLflow would take it for the schema
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Answers a table with the columns of the signature: one text, or `text` and `text_pair`."""
        columns = [model_input[name].tolist() for name in model_input.columns]
        return self._predictor.predict(columns[0] if len(columns) == 1 else list(zip(*columns, strict=True)))


mlflow.models.set_model(TextModel())

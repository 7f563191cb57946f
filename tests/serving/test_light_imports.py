"""What answers needs neither torch nor transformers."""

import json
import subprocess
import sys
from pathlib import Path

from stages.models.loading import load_checkpoint
from tests.makers.exports import generate_greedily
from tests.makers.texts import REVIEWS


def run_code(code: str) -> str:
    """The code's output; it must end well."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_predictor_and_service_need_neither_torch_nor_transformers(exported_reviews: Path) -> None:
    folder = str(exported_reviews / "exported")
    label = run_code(
        "import sys; from serving.predictor import Predictor\n"
        f"print(Predictor({folder!r}).predict(['a fine film'])[0]['label'])\n"
        "heavy = {'torch', 'transformers', 'stages', 'pydantic', 'onnx'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}') if heavy else None\n"
        "from serving.http.app import create_app\n"
        "from serving.service import Service\n"
        "from serving.settings import Settings\n"
        f"create_app(Service(Settings(model={folder!r})))\n"
        "heavy = {'torch', 'transformers', 'stages', 'mlflow'} & set(sys.modules)\n"
        "sys.exit(f'the service loaded {heavy}' if heavy else 0)"
    )
    assert label.strip() in REVIEWS.labels


def test_the_generator_needs_neither_torch_nor_transformers(exported_llama: Path) -> None:
    ids = run_code(
        "import sys; from serving.generator import Generator; from serving.sampling import Sampling\n"
        f"generator = Generator({str(exported_llama / 'onnx')!r})\n"
        "print(generator.generate([[7, 40, 9]], Sampling(max_tokens=5))[0].ids)\n"
        "heavy = {'torch', 'transformers', 'stages', 'pydantic', 'onnx', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    assert json.loads(ids) == generate_greedily(load_checkpoint(exported_llama / "model"), [[7, 40, 9]], 5)[0]

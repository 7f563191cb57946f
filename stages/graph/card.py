"""The files beside the graph: config, tokenizer, manifest with checksums, model card with the scores."""

import hashlib
import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.graph.exporter import CardText

Facts = dict[str, Any]


def write_config(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """`config.json` of the architecture, and the tokenizer."""
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_manifest(folder: Path, facts: Facts) -> Facts:
    """`manifest.json`: the facts, and the SHA-256 of every other file in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    manifest = facts | {"files": {path.relative_to(folder).as_posix(): compute_digest(path) for path in files}}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf8")
    return manifest


def compute_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_card(folder: Path, facts: Facts, text: CardText, scores: Facts) -> None:
    """`README.md`, the model card.

    Args:
        facts: the manifest's.
        scores: evaluate's metrics of the models up to this one, the teacher first.
    """
    own, teacher = scores[facts["role"]], scores["teacher"]
    metric, share = facts["task"]["metrics"][0], own["layer_parameters"] / teacher["layer_parameters"]
    kind = "A low-rank student" if facts["low_rank"] else "A smaller student"
    what = f"{kind} of {facts['base']}" if facts["role"] == "student" else f"{facts['base']}, fine-tuned"
    lines = [
        _front_matter(facts, text),
        f"# makd-{facts['name']} ({facts['role']})\n",
        f"{what}, for the task `{facts['name']}`: {text.task}. Made by MaKD (factorize, then distill).\n",
        f"It has {share:.1%} of the teacher's layer parameters.\n",
        "## Scores\n",
        f"Validation split, points of 100; the interval of {metric} is a 95 % bootstrap over the examples.\n",
        "| model | " + " | ".join(own["metrics"]) + " | interval | kept | parameters | in layers |",
        "|---" * (len(own["metrics"]) + 5) + "|",
        *(_score_row(name, row) for name, row in scores.items()),
        "\n## Variants\n",
        f"`difference`: largest change of a logit against PyTorch. `{metric}`: {text.scored_on}.\n",
        f"| variant | file | opset | MB | difference | {metric} |",
        "|---|---|---|---|---|---|",
        *(_variant_row(name, row) for name, row in facts["variants"].items()),
        f"\n## Use\n\n```python\n{text.usage}\n```\n",
        "Checksums of all files are in `manifest.json`.\n",
        "## License\n",
        f"The weights derive from {facts['base']} and from the task's data: the licenses of both apply.",
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf8")


def _front_matter(facts: Facts, text: CardText) -> str:
    known = f"base_model: {facts['base']}\n" if "/" in facts["base"] else ""
    return (
        f"---\nlibrary_name: onnx\npipeline_tag: {text.pipeline_tag}\n{known}"
        f"tags: [onnx, {'low-rank, ' * facts['low_rank']}distillation]\n---\n"
    )


def _score_row(name: str, row: Facts) -> str:
    values = " | ".join(f"{value:.2f}" for value in row["metrics"].values())
    low, high = row["interval"]
    kept = f"{row['retention']:.1f} %" if "retention" in row else "100 %"
    sizes = f"{row['parameters']:,} | {row['layer_parameters']:,}"
    return f"| {name} | {values} | {low:.2f} to {high:.2f} | {kept} | {sizes} |"


def _variant_row(name: str, row: Facts) -> str:
    score = f"{row['score']:.2f}" if "score" in row else ""
    file = f"`{row['file']}`" if "file" in row else f"not shipped: {row['refused']}"
    return f"| {name} | {file} | {row['opset']} | {row['bytes'] / 1e6:.1f} | {row['difference']:.1e} | {score} |"

"""Render the manifests in k8s/samples again: `python -m examples.gpu.samples`, after a change of them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from cluster.config import load_config
from cluster.k8s import render
from examples.gpu.placeholder_tokens import write_placeholders

REPOSITORY = Path(__file__).resolve().parent.parent.parent
FOLDER = REPOSITORY / "k8s" / "samples"
# Each with the hidden size of its meta.
EXAMPLES = {
    "demo": (REPOSITORY / "k8s" / "demo" / "cluster.yaml", 128),
    "gpu": (REPOSITORY / "examples" / "gpu" / "cluster.yaml", 4096),
}


def main() -> None:
    for name in EXAMPLES:
        # Elsewhere, so that tokens which were learned do not get into a sample.
        with tempfile.TemporaryDirectory() as folder:
            text = render(load_config(copy_example(name, Path(folder)), models_required=False))
        (FOLDER / f"{name}.yaml").write_text(text, encoding="utf-8")


def copy_example(name: str, folder: Path) -> Path:
    """An example's cluster.yaml in `folder`, with a placeholder for every token."""
    source, dim = EXAMPLES[name]
    path = Path(shutil.copy(source, folder / "cluster.yaml"))
    write_placeholders(path, dim)
    return path


if __name__ == "__main__":
    main()

"""Renders the manifests in k8s/samples: `python -m examples.gpu.samples`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from cluster.config.cluster_config import load_config
from cluster.kuberay.render import render
from examples.gpu.placeholder_tokens import write_placeholders

REPOSITORY = Path(__file__).resolve().parent.parent.parent
FOLDER = REPOSITORY / "k8s" / "samples"
# cluster.yaml, and the hidden size of its meta.
EXAMPLES = {
    "demo": (REPOSITORY / "k8s" / "demo" / "cluster.yaml", 576),
    "gpu": (REPOSITORY / "examples" / "gpu" / "cluster.yaml", 4096),
}


def main() -> None:
    for name in EXAMPLES:
        # In another folder, so that learned tokens do not get into a sample.
        with tempfile.TemporaryDirectory() as folder:
            text = render(load_config(copy_example(name, Path(folder)), models_required=False))
        (FOLDER / f"{name}.yaml").write_text(text, encoding="utf-8")


def copy_example(name: str, folder: Path) -> Path:
    """Copy an example's cluster.yaml to `folder`, with a placeholder for every token."""
    source, dim = EXAMPLES[name]
    path = Path(shutil.copy(source, folder / "cluster.yaml"))
    write_placeholders(path, dim)
    return path


if __name__ == "__main__":
    main()

"""The checkpoint of the pipeline: SmolLM2-135M-Instruct with a chat template of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def make_pipeline_checkpoint(folder: Path, base: Path) -> Path:
    """Write the files of the checkpoint `base` to `folder`, with links to its weights. Returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in base.iterdir():
        copy = folder / file.name
        copy.unlink(missing_ok=True)
        if file.suffix == ".safetensors":
            copy.symlink_to(file.resolve())
        else:
            shutil.copyfile(file, copy)
    shutil.copyfile(TEMPLATE, folder / TEMPLATE.name)
    return folder

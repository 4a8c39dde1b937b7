"""Placeholders for tokens: `python -m examples.gpu.placeholder_tokens CLUSTER.YAML --dim 4096`.

With them, a cluster.yaml can be rendered before the tokens are learned. Their numbers mean nothing, and a
meta refuses them, because their fingerprint matches no checkpoint. `etr learn` makes real tokens.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from cluster.config.cluster_config import load_config
from experts.token import ExpertToken

PLACEHOLDER = "placeholder"


def main(
    config: Path,
    dim: Annotated[int, typer.Option(min=1, help="Hidden size of the meta.")],
) -> None:
    """Write a placeholder for every token file that CLUSTER.YAML names and that does not exist."""
    for path in write_placeholders(config, dim):
        typer.echo(f"{path}: placeholder written; replace it with `etr learn`")


def write_placeholders(config: Path, dim: int) -> list[Path]:
    """Returns the files that were written. Existing files are kept. Equal names give equal bytes everywhere.

    Raises:
        ConfigError: cluster.yaml is not valid.
    """
    experts = load_config(config, tokens_required=False, models_required=False).experts
    missing = {
        name: Path(expert.token) for name, expert in experts.items() if not Path(expert.token).exists()
    }
    for name, path in missing.items():
        placeholder(name, dim).save(path)
    return list(missing.values())


def placeholder(name: str, dim: int) -> ExpertToken:
    return ExpertToken(
        name,
        _vector(name, dim),
        bias=0.0,
        meta_name=PLACEHOLDER,
        meta_fingerprint="0" * 16,
        dataset_digest=PLACEHOLDER,
    )


def _vector(name: str, dim: int) -> Tensor:
    """A vector [dim], float32, made of a hash: the bits of a random generator may differ between machines."""
    raw = hashlib.shake_256(name.encode()).digest(dim)
    return (torch.frombuffer(bytearray(raw), dtype=torch.uint8).float() - 127.5) / 256


if __name__ == "__main__":
    typer.run(main)

"""Stand-ins for tokens not learned yet: `python -m examples.gpu.placeholder_tokens CLUSTER.YAML --dim 4096`.

They let a cluster.yaml be rendered and looked at before there is a GPU to learn on. Their numbers mean
nothing, and a meta refuses them, as their fingerprint is no checkpoint's: `etr learn` makes real ones.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from cluster.config import load_config
from experts.token import ExpertToken

PLACEHOLDER = "placeholder"


def main(
    config: Path,
    dim: Annotated[int, typer.Option(min=1, help="Hidden size of the meta.")],
) -> None:
    """Write a placeholder wherever CLUSTER.YAML names a token file that is not there."""
    for path in write_placeholders(config, dim):
        typer.echo(f"{path}: a placeholder; replace it with `etr learn`")


def write_placeholders(config: Path, dim: int) -> list[Path]:
    """The files written; those that are there are kept. Equal names give equal bytes on every machine.

    Raises:
        ConfigError: cluster.yaml cannot be used.
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
    """[dim] float32 out of a hash: a random generator's bits may change with the machine."""
    raw = hashlib.shake_256(name.encode()).digest(dim)
    return (torch.frombuffer(bytearray(raw), dtype=torch.uint8).float() - 127.5) / 256


if __name__ == "__main__":
    typer.run(main)

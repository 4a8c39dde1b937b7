"""An expert that is yet to be added: its block of cluster.yaml, from what a command was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class NewExpert:
    """`entry` is its block of cluster.yaml; `token` the file that it names, which need not be there yet."""

    name: str
    entry: Mapping[str, Any]
    token: Path

    @staticmethod
    def described(
        source: Path,
        name: str,
        kind: str,
        where: Mapping[str, str],
        *,
        token: Path | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> NewExpert:
        """For the cluster.yaml `source`. `kind` is "model", which is {"path": …}, or {"hub": …} with or
        without a revision; or "adapter", {"path": …, "pool": …}. A `token` of None is tokens/NAME.safetensors
        beside the file."""
        folder = source.absolute().parent
        token = (token or folder / "tokens" / f"{name}.safetensors").absolute()
        if "path" in where:
            where = {**where, "path": _from(folder, Path(where["path"]))}
        entry: dict[str, Any] = {kind: dict(where)}
        if resources:
            entry["resources"] = dict(resources)
        return NewExpert(name, entry | {"token": _from(folder, token)}, token)


def _from(folder: Path, path: Path) -> str:
    """Relative to the folder of cluster.yaml where it lies below, so that both can move together."""
    path, folder = path.expanduser().resolve(), folder.resolve()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)

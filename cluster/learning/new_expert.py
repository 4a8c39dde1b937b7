"""An expert to be added: its block of cluster.yaml, made from the options of a command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ExpertSource:
    """What an expert runs. `kind` and `where`: "model" and {"path": …} or {"hub": …, "revision": …}, the
    revision being optional; or "adapter" and {"path": …, "pool": …}, with an optional "invocation".
    `resources`: of one replica."""

    kind: str
    where: Mapping[str, str]
    resources: Mapping[str, float]

    @property
    def is_approximate(self) -> bool:
        """Whether it is an ordinary LoRA that takes over in the meta."""
        return self.where.get("invocation") == "approximate"


@dataclass(frozen=True)
class NewExpert:
    """`entry`: its block of cluster.yaml. `token`: the file that the block names; it need not exist yet."""

    name: str
    entry: Mapping[str, Any]
    token: Path

    @staticmethod
    def described(config: Path, name: str, source: ExpertSource, token: Path | None = None) -> NewExpert:
        """An expert for the cluster.yaml `config`.

        `token`: by default tokens/NAME.safetensors beside `config`.
        """
        folder = config.absolute().parent
        token = (token or folder / "tokens" / f"{name}.safetensors").absolute()
        where = dict(source.where)
        if "path" in where:
            where["path"] = _relative_to(folder, Path(where["path"]))
        entry: dict[str, Any] = {source.kind: where}
        if source.resources:
            entry["resources"] = dict(source.resources)
        return NewExpert(name, entry | {"token": _relative_to(folder, token)}, token)


def _relative_to(folder: Path, path: Path) -> str:
    """`path` relative to `folder` if it lies inside, so that both can be moved together; else absolute."""
    path, folder = path.expanduser().resolve(), folder.resolve()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)

"""States on disk: one safetensors file a shard, and a manifest that vouches for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from experts.errors import DataError
from experts.files import replace_file
from experts.learn.queries import Query
from experts.learn.states import ROW_TENSORS, States, require_finite

_FORMAT_VERSION = 2
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What the shards of a folder are of; they fit no other meta, data or cut."""

    meta_name: str
    meta_fingerprint: str
    dataset_digest: str
    dtype: str
    expert_names: tuple[str, ...]
    shard_size: int
    format_version: int = _FORMAT_VERSION


class StatesFolder:
    """Shards as files, and a manifest with their digests: a shard counts once the manifest has it."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._path = path
        self._manifest = manifest
        self._digests: dict[str, str] = {}
        path.mkdir(parents=True, exist_ok=True)
        if (path / _MANIFEST).exists():
            self._digests = self._read_digests()

    def finished(self) -> set[int]:
        """Numbers of the shards that are there and whole; a damaged one is computed again."""
        return {int(number) for number in self._digests if self._is_whole(number)}

    def add(self, number: int, shard: bytes, queries: Sequence[Query]) -> None:
        tensors = load_tensors(shard)
        self._require_same_meta(shard)
        require_finite(tensors["hidden"], tensors["log_z"], tensors["query"], queries)
        replace_file(self._shard(str(number)), shard)
        self._digests[str(number)] = hashlib.sha256(shard).hexdigest()
        content = asdict(self._manifest) | {"shards": self._digests}
        replace_file(self._path / _MANIFEST, json.dumps(content, indent=1).encode() + b"\n")

    def load(self, num_shards: int) -> States:
        shards = [load_tensors(self._shard(str(number)).read_bytes()) for number in range(num_shards)]
        order = torch.cat([shard["query"] for shard in shards]).argsort(stable=True)
        rows: dict[str, Tensor] = {}
        for name in ROW_TENSORS:
            # Taken out of the shards one by one, so that never all of them and all of the whole are there.
            rows[name] = torch.cat([shard.pop(name) for shard in shards])[order]
        manifest = self._manifest
        return States(
            **rows,
            head_mean=shards[0]["head_mean"],
            expert_names=manifest.expert_names,
            meta_name=manifest.meta_name,
            meta_fingerprint=manifest.meta_fingerprint,
            dataset_digest=manifest.dataset_digest,
        )

    def _read_digests(self) -> dict[str, str]:
        try:
            found: dict[str, Any] = json.loads((self._path / _MANIFEST).read_text(encoding="utf-8"))
            digests = {str(number): str(digest) for number, digest in found["shards"].items()}
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise self._unusable(f"its {_MANIFEST} cannot be read ({error})") from error
        wanted = json.loads(json.dumps(asdict(self._manifest)))
        for field in fields(self._manifest):
            if found.get(field.name) != wanted[field.name]:
                raise self._unusable(
                    f"its states have {field.name} {found.get(field.name)!r}, but now it is "
                    f"{wanted[field.name]!r}"
                )
        return digests

    def _require_same_meta(self, shard: bytes) -> None:
        length = int.from_bytes(shard[:8], "little")
        found = json.loads(shard[8 : 8 + length])["__metadata__"]["meta_fingerprint"]
        if found != self._manifest.meta_fingerprint:
            raise DataError(
                f"a worker's meta has the head {found}, but the meta here has "
                f"{self._manifest.meta_fingerprint}; put the same checkpoint of "
                f"'{self._manifest.meta_name}' on every node"
            )

    def _is_whole(self, number: str) -> bool:
        path = self._shard(number)
        return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == self._digests[number]

    def _shard(self, number: str) -> Path:
        return self._path / f"shard-{int(number):05d}.safetensors"

    def _unusable(self, problem: str) -> DataError:
        return DataError(f"{self._path}: {problem}; delete that folder or name another")

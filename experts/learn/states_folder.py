"""States on disk: one safetensors file per shard, and a manifest that says what they were computed from."""

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

from experts.checkpoint_files import FileIdentity, changed_files, identify_files
from experts.errors import DataError
from experts.files import write_atomic
from experts.learn.hidden_states import ROW_TENSORS, States, require_finite
from experts.learn.queries import Query
from experts.logit_transform import LogitTransform

FORMAT_VERSION = 4
_MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What the shards of a folder were computed from; they are valid for nothing else."""

    meta_name: str
    meta_fingerprint: str
    dataset_digest: str
    dtype: str
    expert_names: tuple[str, ...]
    shard_size: int
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class ShardOrigin:
    """What a shard says of the model that computed it; see `States` for the fields."""

    meta_fingerprint: str
    transform: LogitTransform
    resolution: float

    def to_metadata(self) -> dict[str, str]:
        """For the header of a safetensors file."""
        return {name: json.dumps(value) for name, value in asdict(self).items()}

    @classmethod
    def of(cls, shard: bytes) -> ShardOrigin:
        """Reads the header of a safetensors file."""
        length = int.from_bytes(shard[:8], "little")
        metadata = json.loads(shard[8 : 8 + length])["__metadata__"]
        found = {field.name: json.loads(metadata[field.name]) for field in fields(cls)}
        return cls(**(found | {"transform": LogitTransform(**found["transform"])}))


class StatesFolder:
    """Shards as files, and a manifest with their digests: a shard counts once it is in the manifest.

    The manifest also identifies the files of the meta's checkpoint. The head's fingerprint alone would not
    notice a body that was trained further or another chat template, and both change the states.
    """

    def __init__(self, path: Path, manifest: Manifest, checkpoint_folder: Path) -> None:
        """Raises DataError if `path` holds other states, ModelLoadError if the checkpoint is unreadable."""
        self._path = path
        self._manifest = manifest
        self._digests: dict[str, str] = {}
        path.mkdir(parents=True, exist_ok=True)
        known = self._read() if (path / _MANIFEST_NAME).exists() else None
        self._files = identify_files(checkpoint_folder, known or {})
        if known is not None and (changed := changed_files(known, self._files)):
            raise self._unusable(
                f"its states were computed with other files of the meta: {', '.join(changed)} changed since"
            )

    def finished(self) -> set[int]:
        """Numbers of the shards that are there and whole; a damaged one is computed again."""
        return {int(number) for number in self._digests if self._is_whole(number)}

    def add(self, number: int, shard: bytes, queries: Sequence[Query]) -> None:
        """Raises DataError if the shard was computed with another head or is not finite."""
        tensors = load_tensors(shard)
        self._require_same_head(shard)
        require_finite(tensors["hidden"], tensors["log_z"], tensors["query"], queries)
        write_atomic(self._shard(str(number)), shard)
        self._digests[str(number)] = hashlib.sha256(shard).hexdigest()
        files = {name: asdict(identity) for name, identity in self._files.items()}
        content = asdict(self._manifest) | {"checkpoint_files": files, "shards": self._digests}
        write_atomic(self._path / _MANIFEST_NAME, json.dumps(content, indent=1).encode() + b"\n")

    def load(self, num_shards: int) -> States:
        """All shards as one, its rows in the order of the queries."""
        origin = ShardOrigin.of(self._shard("0").read_bytes())
        shards = [load_tensors(self._shard(str(number)).read_bytes()) for number in range(num_shards)]
        order = torch.cat([shard["query"] for shard in shards]).argsort(stable=True)
        rows: dict[str, Tensor] = {}
        for name in ROW_TENSORS:
            # Popped one by one, so that memory never holds all shards and the whole at once.
            rows[name] = torch.cat([shard.pop(name) for shard in shards])[order]
        manifest = self._manifest
        return States(
            **rows,
            head_mean=shards[0]["head_mean"],
            expert_names=manifest.expert_names,
            meta_name=manifest.meta_name,
            meta_fingerprint=manifest.meta_fingerprint,
            dataset_digest=manifest.dataset_digest,
            transform=origin.transform,
            resolution=origin.resolution,
        )

    def _read(self) -> dict[str, FileIdentity]:
        """Reads the shards' digests; returns the checkpoint files that the states were computed with."""
        try:
            found: dict[str, Any] = json.loads((self._path / _MANIFEST_NAME).read_text(encoding="utf-8"))
            self._require_same_manifest(found)
            self._digests = {str(number): str(digest) for number, digest in found["shards"].items()}
            return {name: FileIdentity(**identity) for name, identity in found["checkpoint_files"].items()}
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise self._unusable(f"its {_MANIFEST_NAME} cannot be read ({error})") from error

    def _require_same_manifest(self, found: dict[str, Any]) -> None:
        expected = json.loads(json.dumps(asdict(self._manifest)))
        for field in fields(self._manifest):
            if found.get(field.name) != expected[field.name]:
                raise self._unusable(
                    f"its states have {field.name} {found.get(field.name)!r}, expected "
                    f"{expected[field.name]!r}"
                )

    def _require_same_head(self, shard: bytes) -> None:
        found = ShardOrigin.of(shard).meta_fingerprint
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

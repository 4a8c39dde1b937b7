"""An expert token: the vector by which a meta calls an expert, and its provenance, in one small file."""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from experts.errors import ModelLoadError, TokenError, TokenMismatch
from experts.files import write_atomic
from experts.names import EXPERT_NAME

FORMAT_VERSION = 1
_MAX_BYTES = 16 * 2**20
_NUM_SAMPLED_ROWS = 256
# Dtypes of safetensors with one value per element; others pack several, so the shape is not [V, d].
_UNPACKED = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I8"})
_HEAD_NAMES = ("lm_head.weight", "embed_out.weight")
_EMBEDDING_NAMES = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")


@dataclass(frozen=True, eq=False)
class ExpertToken:
    """One row of an extended output head: logit = hidden · `vector` + `bias`.

    `vector` is float32 [d] on the CPU. The other fields are provenance: the meta on whose hidden states it
    was learned (`meta_fingerprint` from `head_fingerprint`), the training set and the scores.
    Raises TokenError if a field is malformed.
    """

    name: str
    vector: Tensor
    bias: float
    meta_name: str
    meta_fingerprint: str
    dataset_digest: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if not EXPERT_NAME.fullmatch(self.name):
            raise TokenError(f"expert name {self.name!r} is invalid; use {EXPERT_NAME.pattern}")
        if self.format_version != FORMAT_VERSION:
            raise self._malformed(f"has format version {self.format_version}, not {FORMAT_VERSION}")
        if self.vector.dtype != torch.float32 or self.vector.ndim != 1 or not len(self.vector):
            raise self._malformed(f"has a {self.vector.dtype} vector of shape {list(self.vector.shape)}")
        if not bool(self.vector.isfinite().all()) or not math.isfinite(self.bias):
            raise self._malformed("has values that are not finite")

    @property
    def dim(self) -> int:
        return len(self.vector)

    def require_meta(self, name: str, fingerprint: str, dim: int) -> None:
        """Raises TokenMismatch unless the token was learned on the head with this fingerprint and dim."""
        if (self.meta_fingerprint, self.dim) == (fingerprint, dim):
            return
        raise TokenMismatch(
            f"expert token '{self.name}' was learned for meta '{self.meta_name}' "
            f"(head {self.meta_fingerprint}, dim {self.dim}) but this meta is '{name}' "
            f"(head {fingerprint}, dim {dim}); run `etr learn` to learn it again"
        )

    def save(self, path: Path | str) -> None:
        """Writes a safetensors file atomically, and makes its folder. Raises OSError."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, self.to_bytes())

    @classmethod
    def load(cls, source: Path | str) -> ExpertToken:
        """Reads a path or an fsspec URI (file://, s3://, …). Raises TokenError."""
        try:
            return cls._from_bytes(_read(str(source)))
        except TokenError as error:
            raise TokenError(f"{source}: {error}") from error

    def to_inline(self) -> str:
        """The file as base64 text, for use inside a configuration."""
        return base64.b64encode(self.to_bytes()).decode("ascii")

    @classmethod
    def from_inline(cls, inline: str) -> ExpertToken:
        """The inverse of `to_inline`. Raises TokenError."""
        try:
            return cls._from_bytes(base64.b64decode(inline, validate=True))
        except binascii.Error as error:
            raise TokenError(f"inline expert token is not base64: {error}; run `etr apply` again") from error

    def to_bytes(self) -> bytes:
        """The content of the token's safetensors file."""
        tensors = {"vector": self.vector.contiguous(), "bias": torch.tensor([self.bias], dtype=torch.float64)}
        metadata = {
            "format_version": str(self.format_version),
            "name": self.name,
            "meta_name": self.meta_name,
            "meta_fingerprint": self.meta_fingerprint,
            "dataset_digest": self.dataset_digest,
            "scores": json.dumps(dict(self.scores), sort_keys=True),
        }
        return _in_order(save_tensors(tensors, metadata))

    @classmethod
    def _from_bytes(cls, data: bytes) -> ExpertToken:
        try:
            metadata = _metadata(data)
            tensors = load_tensors(data)
            bias = tensors["bias"]
            if tensors.keys() != {"vector", "bias"} or bias.shape != (1,):
                raise TokenError(
                    "holds other tensors than a vector and a bias; run `etr learn` to learn it again"
                )
            return cls(
                name=metadata["name"],
                vector=tensors["vector"],
                bias=float(bias),
                meta_name=metadata["meta_name"],
                meta_fingerprint=metadata["meta_fingerprint"],
                dataset_digest=metadata["dataset_digest"],
                scores={key: float(value) for key, value in json.loads(metadata["scores"]).items()},
                format_version=int(metadata["format_version"]),
            )
        except KeyError as error:
            raise TokenError(f"not an expert token: no {error}; run `etr learn` to learn it again") from error
        except (SafetensorError, ValueError, TypeError, AttributeError) as error:
            raise TokenError(f"not an expert token: {error}; run `etr learn` to learn it again") from error

    def _malformed(self, problem: str) -> TokenError:
        return TokenError(f"expert token '{self.name}' {problem}; run `etr learn` to learn it again")


def head_fingerprint(weight: Tensor) -> str:
    """Identifies a meta by its output head [V, d]: 16 hex digits over the shape and a sample of the rows.

    At most 256 rows are read, and rounded to bfloat16, so that a checkpoint has the same fingerprint whether
    it is stored in float32 or in bfloat16. A head loaded in float16 may have another one: it was rounded to
    other values before. So engines and learning use the checkpoint's files (`Checkpoint.fingerprint`).
    """
    num_rows, dim = weight.shape
    return _fingerprint(num_rows, dim, (weight[row] for row in _sampled_rows(num_rows)))


def checkpoint_fingerprint(folder: Path | str) -> tuple[str, int] | None:
    """(fingerprint, dim) of the head of a local checkpoint, read from its safetensors without loading it.

    If the head is quantised and packed, this is the fingerprint of the embedding, which is as characteristic.
    None if the files hold no head under a known name; then it takes the loaded model to find it.
    Raises ModelLoadError if the checkpoint is unreadable.
    """
    folder = Path(folder)
    try:
        for names in (_HEAD_NAMES, _EMBEDDING_NAMES):
            for shard in sorted(folder.glob("*.safetensors")):
                if found := _find_head(shard, names):
                    return found
    except (OSError, SafetensorError) as error:
        raise ModelLoadError(f"{folder}: cannot read the checkpoint: {error}; copy it there again") from error
    return None


def _find_head(shard: Path, names: tuple[str, ...]) -> tuple[str, int] | None:
    with safe_open(shard, framework="pt") as tensors:
        for key in tensors.keys():  # noqa: SIM118 - not a dict
            if not key.endswith(names):
                continue
            head = tensors.get_slice(key)
            if head.get_dtype() not in _UNPACKED:
                continue
            num_rows, dim = head.get_shape()
            return _fingerprint(num_rows, dim, (head[row : row + 1] for row in _sampled_rows(num_rows))), dim
    return None


def _fingerprint(num_rows: int, dim: int, rows: Iterable[Tensor]) -> str:
    digest = hashlib.sha256(f"{num_rows}x{dim}".encode())
    for row in rows:
        rounded = row.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(rounded.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def _sampled_rows(num_rows: int) -> list[int]:
    step = max(1, math.ceil(num_rows / _NUM_SAMPLED_ROWS))
    return list(range(0, num_rows, step))


def _read(source: str) -> bytes:
    try:
        if "://" not in source:
            with open(source, "rb") as file:
                return file.read(_MAX_BYTES + 1)
        fsspec = importlib.import_module("fsspec")  # slow to import, and most tokens are plain files
        with fsspec.open(source, "rb") as file:
            data: bytes = file.read(_MAX_BYTES + 1)
            return data
    except (OSError, ImportError, ValueError) as error:
        raise TokenError(f"cannot be read: {error}; correct the path or run `etr learn`") from error


def _in_order(data: bytes) -> bytes:
    """The same file with its header's keys sorted. safetensors writes them in an order that changes from call
    to call, but equal tokens must give equal bytes. Layout: 8 bytes of header length, header, data.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # keeps the tensors aligned
    return len(header).to_bytes(8, "little") + header + data[start:]


def _metadata(data: bytes) -> dict[str, str]:
    if len(data) > _MAX_BYTES:
        raise ValueError(f"larger than {_MAX_BYTES} bytes")
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise ValueError("cut off or not safetensors")
    return dict(json.loads(data[8 : 8 + length])["__metadata__"])

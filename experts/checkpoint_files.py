"""Which files make up a checkpoint, whether they are still the same ones, and whether they are complete for
pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from experts.errors import ModelLoadError

# Weights, configuration, tokenizer, chat template, and code that a checkpoint may contain.
_SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model", ".py")

# The settings of what prepares pictures for a model; or, of other models, sound.
_PROCESSORS = ("processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class FileIdentity:
    """One file's content. Size and time only save reading a file again that has not been touched."""

    size_bytes: int
    mtime_ns: int
    sha256: str


def identify_files(folder: Path, known: Mapping[str, FileIdentity]) -> dict[str, FileIdentity]:
    """The identity of every checkpoint file directly in `folder`, by file name.

    A file with the size and time of its entry in `known` is not read again. Raises ModelLoadError.
    """
    try:
        return {path.name: _identify(path, known.get(path.name)) for path in _checkpoint_files(folder)}
    except OSError as error:
        raise ModelLoadError(f"{folder}: cannot be read: {error.strerror}; copy it there again") from error


def prepares_media(folder: Path) -> bool:
    """Whether the checkpoint has the settings of what prepares pictures, or sound, for its model."""
    return any((folder / name).is_file() for name in _PROCESSORS)


def reads_pictures(folder: Path) -> bool:
    """Whether the checkpoint is complete for pictures: a part that sees, and what prepares them for it."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):  # it is reported where the model is loaded
        return False
    return isinstance(config, dict) and bool(config.get("vision_config")) and prepares_media(folder)


def changed_files(old: Mapping[str, FileIdentity], new: Mapping[str, FileIdentity]) -> list[str]:
    """Names of the files that were added, removed or changed in content, in order."""
    old_digests = {name: identity.sha256 for name, identity in old.items()}
    new_digests = {name: identity.sha256 for name, identity in new.items()}
    return sorted({name for name, _ in old_digests.items() ^ new_digests.items()})


def _checkpoint_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.endswith(_SUFFIXES) and path.is_file())


def _identify(path: Path, known: FileIdentity | None) -> FileIdentity:
    stat = path.stat()
    if known and (known.size_bytes, known.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
        return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileIdentity(stat.st_size, stat.st_mtime_ns, digest)

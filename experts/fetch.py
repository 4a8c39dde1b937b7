"""Copies a model from a URI to a folder of this machine, once. fsspec knows the file systems."""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from experts.cache import CACHE_VARIABLE, cache_dir, make_once
from experts.errors import ModelLoadError

# What a checkpoint needs: weights, configuration, tokenizer, chat template. Never code or pickles.
_SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model")


def fetch(uri: str, config: str = "config.json") -> Path:
    """The folder with the checkpoint at `uri` (s3://…, https://…, file://…); copied unless it is here.

    Only files at the top of the remote folder are taken, and of those only what a checkpoint needs; `config`
    must be one of them. If several callers ask for the same URI, in this process or in others, one copies
    and the rest wait. A model that is here is not compared with its source again: a changed model needs a
    new URI.

    Raises:
        ModelLoadError: `uri` cannot be read or is not a checkpoint, or there is no room for it.
    """
    folder = _folder(uri)
    try:
        make_once(folder, lambda empty: _copy(uri, empty, config))
    except OSError as error:
        raise _unfetchable(uri, error) from error
    return folder


def fetched(uri: str) -> Path | None:
    """The folder that `fetch` would return, if it is there without copying anything."""
    folder = _folder(uri)
    return folder if folder.is_dir() else None


def uri_name(uri: str) -> str:
    """The name of the model at a URI: the URI's last part, made safe as the name of a folder."""
    return re.sub(r"[^\w.-]", "_", uri.rstrip("/").rpartition("/")[2]).strip(".") or "model"


def _folder(uri: str) -> Path:
    digest = hashlib.sha256(uri.rstrip("/").encode()).hexdigest()[:32]
    return cache_dir() / "models" / digest / uri_name(uri)


def _copy(uri: str, folder: Path, config: str) -> None:
    try:
        system, root = _file_system(uri)
        sizes = _checkpoint_files(uri, _list(system, root), root, config)
        names = list(sizes)
        system.get([f"{root.rstrip('/')}/{name}" for name in names], [str(folder / name) for name in names])
    except (ModelLoadError, OSError):
        raise
    except ImportError as error:
        raise ModelLoadError(
            f"{uri}: a package is missing on this node: {error}; install it wherever models are loaded"
        ) from error
    except Exception as error:  # each file system raises its own exceptions, without a common base
        raise _unfetchable(uri, error) from error
    for name, size_bytes in sizes.items():
        _require_complete(uri, folder / name, size_bytes)


def _file_system(uri: str) -> tuple[Any, str]:
    fsspec = importlib.import_module("fsspec")  # slow to import, and most models are plain folders
    options: dict[str, Any] = {"skip_instance_cache": True}  # a cached instance may hold an older listing
    if uri.startswith(("http://", "https://")):
        import aiohttp

        # aiohttp's default ends every download after five minutes, however fast it is.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
        options["client_kwargs"] = {"timeout": timeout}
    system, root = fsspec.core.url_to_fs(uri, **options)
    return system, str(root)


def _list(system: Any, root: str) -> Iterator[dict[str, Any]]:
    """The entries of `root`. On this machine's disk a link to a file counts as that file: a snapshot in
    Hugging Face's cache is a folder of links. In archives and on other machines links are not followed."""
    local = importlib.import_module("fsspec.implementations.local").LocalFileSystem
    for entry in system.ls(root, detail=True):
        followed = entry.get("islink") and isinstance(system, local) and Path(entry["name"]).is_file()
        yield {**entry, "type": "file"} if followed else entry


def _checkpoint_files(
    uri: str, entries: Iterable[dict[str, Any]], root: str, config: str
) -> dict[str, int | None]:
    """The names to take, each with its size in bytes if the listing has it."""
    sizes: dict[str, int | None] = {}
    for entry in entries:
        name = PurePosixPath(entry["name"]).name
        if entry["type"] == "directory" or name.startswith(".") or not name.endswith(_SUFFIXES):
            continue
        # The listing comes from another party: no name in it may lead out of the folder, there or here.
        if entry["name"] != f"{root.rstrip('/')}/{name}":
            raise ModelLoadError(
                f"{uri}: lists {entry['name']!r}, which is not in that folder; remove it there"
            )
        if entry["type"] != "file":
            raise ModelLoadError(f"{uri}: {name} is a link that is not followed; put the file in its place")
        sizes[name] = entry.get("size")
    if config not in sizes or not any(name.endswith(".safetensors") for name in sizes):
        raise ModelLoadError(
            f"{uri}: lists no {config} with *.safetensors; name the folder of a Hugging Face checkpoint"
        )
    return dict(sorted(sizes.items()))


def _require_complete(uri: str, path: Path, size_bytes: int | None) -> None:
    """Raises ModelLoadError if a download was cut short, also when its server announced no size."""
    if size_bytes is not None and path.stat().st_size != size_bytes:
        raise ModelLoadError(f"{uri}: {path.name} arrived with another size than announced; try again")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="numpy"):
                pass  # opening compares the header's offsets with the size of the file
        elif path.suffix == ".json" and size_bytes is None:
            json.loads(path.read_bytes())
    except (SafetensorError, ValueError) as error:
        raise ModelLoadError(f"{uri}: {path.name} is incomplete or broken: {error}; try again") from error


def _unfetchable(uri: str, error: Exception) -> ModelLoadError:
    first_line = (str(error).splitlines() or [""])[0]
    reason = first_line if first_line.startswith("[Errno") else f"{type(error).__name__}: {first_line}"
    return ModelLoadError(f"{uri}: cannot be fetched: {reason}; {_remedy(error)}")


def _remedy(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"make room in {cache_dir()} or set {CACHE_VARIABLE}"
    if number in (errno.EACCES, errno.EROFS, errno.ENOTDIR) and str(cache_dir()) in str(error):
        return f"set {CACHE_VARIABLE} to a folder that can be written"
    return "correct the URI, or give this node access to it"

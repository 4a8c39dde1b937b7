"""A model from a URI to a folder of this machine, once. fsspec knows the file systems."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from experts.errors import ModelLoadError

CACHE_VARIABLE = "ETR_CACHE_DIR"
# What a checkpoint needs: weights, configuration, tokenizer, chat template. Never code or pickles.
_WANTED = (".safetensors", ".json", ".jinja", ".txt", ".model")


def fetch(uri: str, config: str = "config.json") -> Path:
    """The folder with the checkpoint at `uri` (s3://…, https://…, file://…), copied unless it is here.

    Only files at the top of the remote folder are taken, and of those only what a checkpoint needs; one is
    `config`. Whoever asks meanwhile, in this process or another, waits for the one that copies. What is here
    is not compared with the source again: a changed model needs a new URI.

    Raises:
        ModelLoadError: `uri` cannot be read or is no checkpoint, or there is no room for it.
    """
    folder = _folder(uri)
    if folder.is_dir():
        return folder
    try:
        with _locked(folder.parent.with_suffix(".lock")):
            if not folder.is_dir():
                _copy_whole(uri, folder, config)
    except OSError as error:
        raise _unfetchable(uri, error) from error
    return folder


def fetched(uri: str) -> Path | None:
    """The folder that `fetch` would return, if it is there without copying anything."""
    folder = _folder(uri)
    return folder if folder.is_dir() else None


def uri_name(uri: str) -> str:
    """What a model is called that comes from there: the last part of the URI, as the name of a folder."""
    return re.sub(r"[^\w.-]", "_", uri.rstrip("/").rpartition("/")[2]).strip(".") or "model"


def _folder(uri: str) -> Path:
    digest = hashlib.sha256(uri.rstrip("/").encode()).hexdigest()[:32]
    return _cache_dir() / "models" / digest / uri_name(uri)


def _cache_dir() -> Path:
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/etr").expanduser().absolute()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The lock goes with the process that holds it, so one that was killed blocks nobody."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _copy_whole(uri: str, folder: Path, config: str) -> None:
    """Nobody sees half a model: the copy gets its name when it is complete. Call it under the lock."""
    partial = folder.parent.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        (partial / folder.name).mkdir(parents=True)
        _copy(uri, partial / folder.name, config)
        partial.rename(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy(uri: str, folder: Path, config: str) -> None:
    try:
        system, root = _file_system(uri)
        sizes = _checkpoint_files(uri, system.ls(root, detail=True), root, config)
        names = list(sizes)
        system.get([f"{root.rstrip('/')}/{name}" for name in names], [str(folder / name) for name in names])
    except (ModelLoadError, OSError):
        raise
    except ImportError as error:
        raise ModelLoadError(
            f"{uri}: a package is missing on this node: {error}; install it wherever models are loaded"
        ) from error
    except Exception as error:  # every file system has exceptions of its own, under no common base
        raise _unfetchable(uri, error) from error
    for name, size in sizes.items():
        if size is not None and (folder / name).stat().st_size != size:
            raise ModelLoadError(f"{uri}: {name} arrived with another size than announced; try again")


def _file_system(uri: str) -> tuple[Any, str]:
    fsspec = importlib.import_module("fsspec")  # slow, and most models are plain folders
    options: dict[str, Any] = {"skip_instance_cache": True}  # which would remember an older listing
    if uri.startswith(("http://", "https://")):
        import aiohttp

        # Its default ends every download after five minutes, however fast it goes.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
        options["client_kwargs"] = {"timeout": timeout}
    system, root = fsspec.core.url_to_fs(uri, **options)
    return system, str(root)


def _checkpoint_files(
    uri: str, entries: list[Mapping[str, Any]], root: str, config: str
) -> dict[str, int | None]:
    """The names to take, each with its size in bytes where the listing says so."""
    sizes: dict[str, int | None] = {}
    for entry in entries:
        name = PurePosixPath(entry["name"]).name
        if entry["type"] != "file" or name.startswith(".") or not name.endswith(_WANTED):
            continue
        # A listing is the other side's word: no name in it may lead out of the folder, there or here.
        if entry["name"] != f"{root.rstrip('/')}/{name}":
            raise ModelLoadError(
                f"{uri}: lists {entry['name']!r}, which is not in that folder; remove it there"
            )
        sizes[name] = entry.get("size")
    if config not in sizes or not any(name.endswith(".safetensors") for name in sizes):
        raise ModelLoadError(
            f"{uri}: lists no {config} with *.safetensors; name the folder of a Hugging Face checkpoint"
        )
    return dict(sorted(sizes.items()))


def _unfetchable(uri: str, error: Exception) -> ModelLoadError:
    first_line = (str(error).splitlines() or [""])[0]
    words = first_line if first_line.startswith("[Errno") else f"{type(error).__name__}: {first_line}"
    return ModelLoadError(f"{uri}: cannot be fetched: {words}; {_remedy(error)}")


def _remedy(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"make room in {_cache_dir()} or set {CACHE_VARIABLE}"
    if number in (errno.EACCES, errno.EROFS, errno.ENOTDIR) and str(_cache_dir()) in str(error):
        return f"set {CACHE_VARIABLE} to a folder that can be written"
    return "correct the URI, or give this node access to it"

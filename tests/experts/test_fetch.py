"""Models by URI: fetched once, whole or not at all, and only what a checkpoint needs."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pytest
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

from experts.cache import CACHE_VARIABLE
from experts.checkpoint import Checkpoint, checkpoint_name
from experts.engine.config import TransformersConfig
from experts.engine.hf.loader import load
from experts.errors import ModelLoadError
from experts.fetch import fetch, fetched
from tests.tiny.models import save_tiny_llama
from tests.tiny.tokenizers import byte_level

# Safetensors without tensors: the length of the header, 8 bytes, and the header.
WEIGHTS = "\x08\0\0\0\0\0\0\0{}      "
FILES = {
    "config.json": "{}",
    "model.safetensors": WEIGHTS,
    "chat_template.jinja": "hello",
    "merges.txt": "a b",
}
UNWANTED = {
    "modeling.py": "boom",
    "pytorch_model.bin": "pickle",
    "rank.pt": "pickle",
    "._config.json": "macOS",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    folder = tmp_path / "remote" / "roman"
    (folder / "original").mkdir(parents=True)
    for name, text in {**FILES, **UNWANTED, "original/params.json": "{}"}.items():
        (folder / name).write_text(text)
    return folder


@dataclass
class Server:
    """A web server that lists its folders and counts its requests.

    It answers 500 to requests for `broken` files, sends half of `cut_short` files without their size, and
    blocks requests for `blocked` until `unblock` is set.
    """

    url: str = ""
    num_gets: Counter[str] = field(default_factory=Counter)
    broken: set[str] = field(default_factory=set)
    cut_short: set[str] = field(default_factory=set)
    blocked: str = ""
    requested: threading.Event = field(default_factory=threading.Event)
    unblock: threading.Event = field(default_factory=threading.Event)
    listing: str | None = None


class Handler(SimpleHTTPRequestHandler):
    def __init__(self, *args: Any, server_state: Server, **options: Any) -> None:
        self.state = server_state
        super().__init__(*args, **options)

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.state.num_gets[name] += 1
        if name and name == self.state.blocked:
            self.state.requested.set()
            self.state.unblock.wait()
        if name in self.state.broken:
            self.send_error(500)
        elif name in self.state.cut_short:
            self._answer(FILES[name][: len(FILES[name]) // 2])
        elif not name and self.state.listing is not None:
            self._answer(self.state.listing)
        else:
            super().do_GET()

    def _answer(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    state = Server()
    handler = partial(Handler, directory=str(folder), server_state=state)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield state
        finally:
            state.unblock.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def web(remote: Path) -> Iterator[Server]:
    with serving(remote.parent) as server:
        yield server


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def refusal(uri: str) -> str:
    with pytest.raises(ModelLoadError) as caught:
        fetch(uri)
    message = str(caught.value)
    assert message.startswith(f"{uri}: ")
    assert "\n" not in message
    assert ";" in message  # the remedy
    assert fetched(uri) is None
    return message


def test_only_what_a_checkpoint_needs_is_taken(remote: Path, cache: Path):
    folder = fetch(f"file://{remote}")
    assert {path.name: path.read_text() for path in folder.iterdir()} == FILES
    assert folder.name == "roman"
    assert cache in folder.parents


def test_a_fetched_model_is_not_compared_with_its_source_again(remote: Path):
    uri = f"file://{remote}"
    assert fetched(uri) is None
    folder = fetch(uri)
    (remote / "config.json").write_text("changed")
    assert fetched(uri) == fetched(f"{uri}/") == fetch(uri) == folder
    assert (folder / "config.json").read_text() == "{}"


def test_concurrent_callers_fetch_a_folder_once(web: Server):
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(fetch, [f"{web.url}/roman"] * 8))
    (folder,) = folders
    assert {path.name: path.read_text() for path in folder.iterdir()} == FILES
    assert {name: web.num_gets[name] for name in FILES} == dict.fromkeys(FILES, 1)
    assert set(web.num_gets).isdisjoint(UNWANTED)


def test_equal_names_at_different_places_are_different_models(remote: Path, tmp_path: Path):
    other = tmp_path / "other" / "roman"
    other.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (other / name).write_text(FILES[name])
    assert fetch(f"file://{other}") != fetch(f"file://{remote}")


def test_a_killed_fetch_leaves_only_a_partial_copy_that_is_ignored(web: Server, cache: Path):
    web.blocked = "model.safetensors"
    code = f"from experts.fetch import fetch; fetch('{web.url}/roman')"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        assert web.requested.wait(timeout=60)
        process.kill()
    assert any(path.suffix == ".partial" for path in cache.iterdir())
    assert fetched(f"{web.url}/roman") is None
    web.blocked = ""
    web.unblock.set()
    assert names(fetch(f"{web.url}/roman")) == set(FILES)
    assert not any(path.suffix == ".partial" for path in cache.iterdir())


def test_a_fetch_that_fails_half_way_leaves_nothing_and_can_be_repeated(web: Server, cache: Path):
    web.broken = {"model.safetensors"}
    assert "500" in refusal(f"{web.url}/roman")
    assert all(path.suffix == ".lock" for path in cache.iterdir())
    web.broken = set()
    assert names(fetch(f"{web.url}/roman")) == set(FILES)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_download_cut_short_without_an_announced_size_is_refused(web: Server, cache: Path, name: str):
    web.cut_short = {name}
    assert f"{name} is incomplete or broken" in refusal(f"{web.url}/roman")
    web.cut_short = set()
    assert (fetch(f"{web.url}/roman") / name).read_text() == FILES[name]


def test_links_to_files_are_followed_on_this_machines_disk(remote: Path, tmp_path: Path):
    """As in a snapshot of Hugging Face's cache, whose files are links to ../../blobs."""
    snapshot = tmp_path / "snapshots" / "roman"
    snapshot.mkdir(parents=True)
    for name in FILES:
        (snapshot / name).symlink_to(f"../../remote/roman/{name}")
    folder = fetch(f"file://{snapshot}")
    assert {path.name: path.read_text() for path in folder.iterdir()} == FILES
    assert not any(path.is_symlink() for path in folder.iterdir())


def test_a_link_to_nothing_is_refused_and_not_left_out(remote: Path):
    (remote / "tokenizer.json").symlink_to("nowhere.json")
    assert "tokenizer.json is a link that is not followed; put the file in its place" in refusal(
        f"file://{remote}"
    )


class LinkFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Lists one file as a link, as a server or an archive can."""

    protocol = "linked"

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        size = {"size": 2}
        return [
            {"name": f"{path}/config.json", "type": "file", **size},
            {"name": f"{path}/model.safetensors", "type": "link", "islink": True, **size},
        ]


def test_links_of_other_file_systems_are_not_followed():
    fsspec.register_implementation("linked", LinkFileSystem, clobber=True)
    assert "model.safetensors is a link that is not followed" in refusal("linked://bucket/roman")


@pytest.mark.parametrize("link", ["../../evil.json", "x/../../evil.txt", "sub/evil.safetensors"])
def test_a_listing_that_leads_out_of_its_folder_is_refused(web: Server, tmp_path: Path, link: str):
    for outside in (tmp_path, tmp_path / "remote"):
        (outside / Path(link).name).write_text("evil")
    listed = ["config.json", "model.safetensors", link]
    web.listing = "".join(f'<a href="{name}">{name}</a>' for name in listed)
    assert "which is not in that folder; remove it there" in refusal(f"{web.url}/roman")


class ShortFileSystem(LocalFileSystem):  # type: ignore[misc]
    """Announces one byte more than it gives."""

    protocol = "short"

    def ls(self, path: str, detail: bool = False, **options: Any) -> Any:
        return [{**entry, "size": entry["size"] + 1} for entry in super().ls(path, detail=True)]


def test_a_file_that_arrives_short_is_refused(remote: Path):
    fsspec.register_implementation("short", ShortFileSystem, clobber=True)
    assert "arrived with another size than announced; try again" in refusal(f"short://{remote}")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("file:///nowhere/roman", "No such file or directory: '/nowhere/roman'; correct the URI"),
        ("gopher://host/roman", "Protocol not known: gopher"),
        ("http://127.0.0.1:1/roman", "Cannot connect to host 127.0.0.1:1"),
    ],
)
def test_an_unreachable_source_is_reported_in_one_line(uri: str, expected: str):
    assert expected in refusal(uri)


def test_a_missing_file_system_names_its_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it was not installed
    assert "Install s3fs to access S3; install it wherever models are loaded" in refusal("s3://bucket/roman")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_that_is_not_a_checkpoint_is_refused(remote: Path, missing: str):
    (remote / missing).unlink()
    assert "name the folder of a Hugging Face checkpoint" in refusal(f"file://{remote}")


def test_a_single_file_is_not_a_checkpoint(remote: Path):
    assert "config.json" in refusal(f"file://{remote}/config.json")


def test_a_cache_that_cannot_be_written_names_the_setting(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    assert "set ETR_CACHE_DIR to a folder that can be written" in refusal(f"file://{remote}")


def test_a_model_loaded_from_a_uri_is_named_after_its_last_part(tmp_path: Path):
    save_tiny_llama(tmp_path / "remote" / "roman", byte_level())
    uri = f"file://{tmp_path}/remote/roman"
    assert checkpoint_name(uri) == "roman"
    assert fetched(uri) is None  # the name is known without fetching
    loaded = load(uri, TransformersConfig(dtype="float32"))
    checkpoint, local = Checkpoint(uri), Checkpoint(str(tmp_path / "remote" / "roman"))
    assert (loaded.tokenizer.name, checkpoint.name) == ("roman", "roman")
    assert checkpoint.max_tokens() == loaded.tokenizer.max_model_len == 256
    assert checkpoint.fingerprint() == local.fingerprint()
    assert checkpoint.load_renderer().text("hi", "") == local.load_renderer().text("hi", "")

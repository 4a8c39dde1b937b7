"""The head that `etr up` starts: a real one, and what is left of it afterwards."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from cluster.errors import HeadBusy, HeadFileBroken, HeadStartFailed, PortTaken
from cluster.haproxy_command import PATH_VARIABLE
from cluster.local import head as local_head
from cluster.local.head import find_head, start_head, stop_head
from cluster.local.ports import require_free_port
from cluster.local.process_session import Session
from cluster.polling import until
from cluster.ray_env import RAY_ENV, RAY_WORKER_ENV

REPOSITORY = Path(__file__).resolve().parents[3]
PAUSE = "import signal; print('child', flush=True); signal.pause()"
SLEEPER = [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"]

# Twenty threads take turns: each takes 5 MB and gives all but the last block back. Prints what came on top.
IN_TURNS = """
import ctypes, threading
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
over = threading.Barrier(21)

def work(done):
    blocks = [libc.malloc(5000) for _ in range(1000)]
    for block in blocks:
        ctypes.memset(block, 1, 5000)
    for block in blocks[:-1]:
        libc.free(block)
    done.set()
    over.wait()

def resident_bytes():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

began = resident_bytes()
for _ in range(20):
    done = threading.Event()
    threading.Thread(target=work, args=[done]).start()
    done.wait()
print(resident_bytes() - began)
over.wait()
"""


@pytest.fixture
def bystander():
    """A program that is not ours, in a session of its own."""
    with subprocess.Popen(
        SLEEPER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def alive(members: list[psutil.Process]) -> list[psutil.Process]:
    """A zombie has ended; collecting it is its parent's business."""
    return [p for p in members if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.cluster
def test_a_head_requires_its_token_and_ends_with_all_its_processes(
    tmp_path: Path, bystander: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-another-cluster")
    head = start_head(tmp_path, num_cpus=3)
    try:
        members = head.session.processes()
        names = " ".join(" ".join(process.cmdline()) for process in members)
        assert "gcs_server" in names
        assert "raylet" in names
        url = f"{head.dashboard_url}/api/serve/applications/"
        assert httpx.get(url).status_code == 401
        answer = httpx.get(url, headers={"Authorization": f"Bearer {head.auth_token}"})
        assert answer.json()["applications"] == {}
        assert start_head(tmp_path) == head == find_head(tmp_path)
        assert (tmp_path / "head.json").stat().st_mode & 0o077 == 0
    finally:
        assert stop_head(tmp_path)

    assert not alive(members)
    assert not head.session.processes()
    assert not Path(head.temp_dir).exists()
    assert bystander.poll() is None
    assert find_head(tmp_path) is None
    assert not stop_head(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc's allocator")
def test_memory_that_one_thread_frees_is_reused_by_the_next(tmp_path: Path):
    """A model's RSS grew by 1.7 MB per 1,000 calls, in arenas of their own for all of its threads."""
    environment = local_head._environment(str(tmp_path), {})
    told = subprocess.run([sys.executable, "-c", IN_TURNS], env=environment, check=True, capture_output=True)
    assert int(told.stdout) < 4 * 5_000_000


def test_the_docs_list_every_variable_for_nodes_that_are_started_by_hand():
    lines = (REPOSITORY / "docs" / "operate.md").read_text(encoding="utf-8").splitlines()
    told = [shlex.split(line)[1].partition("=") for line in lines if line.startswith("export ")]
    path = {PATH_VARIABLE: "$(command -v etr-haproxy)"}
    assert {name: value for name, _, value in told} == RAY_ENV | RAY_WORKER_ENV | path


@pytest.mark.cluster
def test_a_head_that_refuses_its_token_fails_at_once(tmp_path: Path):
    with pytest.raises(HeadStartFailed, match=r"http://127\.0\.0\.1:\d+ refuses this head's token"):
        start_head(tmp_path, num_cpus=1, env={"RAY_AUTH_TOKEN": "another"})
    assert find_head(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b'{"pid": 1}',
        b'{"pid": "x", "dashboard_url": "", "temp_dir": "", "auth_token": ""}',
    ],
)
def test_a_broken_state_file_is_named_with_the_remedy(tmp_path: Path, content: bytes):
    path = tmp_path / "head.json"
    path.write_bytes(content)
    for use in (find_head, stop_head, start_head):
        with pytest.raises(HeadFileBroken, match=rf"^{path}: .*; delete it"):
            use(tmp_path)
    assert path.read_bytes() == content


def test_stopping_a_head_that_was_never_started_creates_no_folder(tmp_path: Path):
    assert not stop_head(tmp_path / "typo")
    assert list(tmp_path.iterdir()) == []


def test_a_head_that_cannot_start_says_why_and_leaves_no_process(tmp_path: Path):
    before = set(Path("/tmp").glob("etr-*"))
    with pytest.raises(HeadStartFailed, match=r"ended while starting.*head\.log"):
        start_head(tmp_path, env={"RAY_AUTH_TOKEN_PATH": "/nonexistent"})
    assert not (tmp_path / "head.json").exists()
    assert set(Path("/tmp").glob("etr-*")) <= before


def test_only_one_process_starts_a_head_at_a_time(tmp_path: Path):
    code = (
        "import sys, pathlib, cluster.local.head as local_head\n"
        f"with local_head._head_lock(pathlib.Path({str(tmp_path)!r})):\n"
        "    print('locked', flush=True); sys.stdin.read()"
    )
    root = REPOSITORY
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(HeadBusy, match="wait for it"):
            start_head(tmp_path)
        other.communicate(b"")
    assert not stop_head(tmp_path)


def test_a_taken_port_is_named_with_the_field_to_change():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"port {port} on 127\.0\.0\.1 is taken.*set http\.port"):
            require_free_port("127.0.0.1", port)
    require_free_port("127.0.0.1", port)


def test_a_session_ends_with_children_that_left_their_group(tmp_path: Path):
    """The leader dies of SIGTERM without a word to its child, which ignores SIGTERM."""
    child = (
        "import os, signal; os.setpgid(0, 0); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('child', flush=True)\nwhile True: signal.pause()"
    )
    leader = (
        f"import signal, subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "signal.pause()  # mark-7f3a"
    )
    session = Session.start([sys.executable, "-c", leader], {}, tmp_path / "log", mark="mark-7f3a")
    assert until(lambda: "child" in (tmp_path / "log").read_text(), timeout_s=20)
    members = session.processes()
    assert len(members) == 2
    session.end(term_timeout_s=0.5)
    assert not alive(members)


def test_a_session_whose_leader_died_is_ended_by_its_mark(tmp_path: Path):
    leader = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {PAUSE!r}])  # mark-5b2c"
    session = Session.start([sys.executable, "-c", leader], {}, tmp_path / "log", mark="mark-5b2c")
    assert until(lambda: "child" in (tmp_path / "log").read_text() and not session.runs(), timeout_s=20)
    (child,) = session.processes()
    session.end(term_timeout_s=0.5)
    assert not alive([child])


def test_another_session_with_our_number_is_left_alone_after_its_leader_died(tmp_path: Path):
    """The number came round: a program that is not ours led that session, and is gone as our head is."""
    leader = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {PAUSE!r}])"
    other = Session.start([sys.executable, "-c", leader], {}, tmp_path / "log", mark="/tmp/etr-of-another")
    assert until(lambda: "child" in (tmp_path / "log").read_text() and not other.runs(), timeout_s=20)
    (child,) = other.processes()
    try:
        stale = Session(other.pid, mark="/tmp/etr-of-long-ago")
        assert stale.processes() == []
        stale.end(term_timeout_s=0.1)
        assert alive([child])
    finally:
        child.kill()


def test_a_reused_process_id_is_left_alone(bystander: subprocess.Popen[bytes]):
    stale = Session(bystander.pid, mark="/tmp/etr-of-long-ago")
    assert not stale.runs()
    stale.end()
    assert bystander.poll() is None

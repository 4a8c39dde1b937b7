"""A Ray head on this machine, with its own processes, ports and folders."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
from pydantic import TypeAdapter, ValidationError

from cluster.errors import HeadBusy, HeadFileBroken, HeadStartFailed
from cluster.haproxy import haproxy_env
from cluster.lock import LockHeld, exclusive
from cluster.ports import free_ports
from cluster.ray_env import RAY_ENV
from cluster.session import Session, until

OBJECT_STORE_BYTES = 200_000_000  # answers are small messages; weights never pass through the store
START_TIMEOUT_S = 90.0
# Of another cluster: where it is, and a token that would beat our token file.
OTHERS_ENV = ("RAY_ADDRESS", "RAY_AUTH_TOKEN")


@dataclass(frozen=True, slots=True)
class Head:
    """A started head, as it is kept in the state folder's head.json."""

    pid: int
    dashboard_url: str
    temp_dir: str
    auth_token: str

    @property
    def session(self) -> Session:
        return Session(self.pid, mark=self.temp_dir)


def state_root() -> Path:
    """Where this user keeps what `etr` remembers, one folder per cluster."""
    named = os.environ.get("ETR_STATE_DIR")
    return Path(named).expanduser() if named else Path.home() / ".local" / "state" / "etr"


def start_head(
    state_dir: Path,
    *,
    num_cpus: int | None = None,
    dashboard_port: int | None = None,
    env: Mapping[str, str] | None = None,
) -> Head:
    """Start a head and wait until Serve's REST API answers; it goes on running when this process ends.

    `num_cpus` is what Ray hands out, not what the machine has. `env` goes to every process of the cluster.
    A head that runs already is returned as it is.

    Raises:
        HeadFileBroken: what was kept of an earlier head cannot be read.
        HeadBusy: another process is starting or stopping the same head.
        HeadStartFailed: Ray did not come up; what it had started is gone again.
    """
    with _only_one(state_dir):
        running = find_head(state_dir)
        if running:
            return running
        _clean_up(state_dir)
        return _start(state_dir, num_cpus, dashboard_port, env or {})


def find_head(state_dir: Path) -> Head | None:
    """The head started with this state folder, if it still runs. Raises HeadFileBroken."""
    head = _read(state_dir)
    return head if head and head.session.runs() else None


def stop_head(state_dir: Path) -> bool:
    """End the head and all it started, and nothing else. False when none was started with this folder.

    Raises:
        HeadBusy, HeadFileBroken.
    """
    if not state_dir.is_dir():  # a lock would make it
        return False
    with _only_one(state_dir):
        return _clean_up(state_dir)


def _clean_up(state_dir: Path) -> bool:
    """Also after a head that died by itself: some of its processes may have stayed."""
    head = _read(state_dir)
    if head is None:
        return False
    _end(head)
    _state_path(state_dir).unlink()
    return True


@contextmanager
def _only_one(state_dir: Path) -> Iterator[None]:
    try:
        with exclusive(state_dir / "lock"):
            yield
    except LockHeld as held:
        raise HeadBusy(
            f"another etr is starting or stopping this cluster ({held}, {state_dir}); wait for it"
        ) from held


def _start(state_dir: Path, num_cpus: int | None, dashboard_port: int | None, env: Mapping[str, str]) -> Head:
    log_path = state_dir / "head.log"
    dashboard, gcs, client, agent = free_ports(4)
    dashboard = dashboard_port or dashboard
    # Unix sockets live below it, and their paths end at 107 characters; so not in the state folder.
    temp_dir = tempfile.mkdtemp(prefix="etr-", dir="/tmp")
    token = secrets.token_hex(32)
    _write_private(_token_path(temp_dir), token)
    command = _command(temp_dir, dashboard, gcs, client, agent, num_cpus)
    with ExitStack() as undo:  # also when interrupted from the keyboard
        undo.callback(shutil.rmtree, temp_dir, ignore_errors=True)
        session = Session.start(command, _environment(temp_dir, env), log_path, mark=temp_dir)
        head = Head(session.pid, f"http://127.0.0.1:{dashboard}", temp_dir, token)
        undo.callback(_end, head)
        _write_private(_state_path(state_dir), json.dumps(asdict(head)))
        undo.callback(_state_path(state_dir).unlink)
        _wait_until_up(head, log_path)
        undo.pop_all()
    return head


def _command(
    temp_dir: str, dashboard: int, gcs: int, client: int, agent: int, num_cpus: int | None
) -> list[str]:
    options: dict[str, object] = {
        "--temp-dir": temp_dir,
        "--port": gcs,
        "--dashboard-host": "127.0.0.1",
        "--dashboard-port": dashboard,
        "--ray-client-server-port": client,
        "--dashboard-agent-listen-port": agent,
        "--min-worker-port": 0,  # any free ones: the default range would meet another cluster's
        "--max-worker-port": 0,
        "--object-store-memory": OBJECT_STORE_BYTES,
    }
    if num_cpus is not None:
        options["--num-cpus"] = num_cpus
    # -P: the folder `etr` is called from must not become a place to import from.
    ray = [sys.executable, "-P", "-m", "ray.scripts.scripts"]
    flags = [str(part) for option in options.items() for part in option]
    return [*ray, "start", "--head", "--block", "--disable-usage-stats", *flags]


def _environment(temp_dir: str, extra: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in OTHERS_ENV}
    packages = str(Path(__file__).resolve().parent.parent)  # replicas import `deployments` from there
    return inherited | {
        **RAY_ENV,
        **haproxy_env(Path(temp_dir)),
        # Ray's own ports listen on every interface: whoever connects must know the token.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(_token_path(temp_dir)),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # there is no other node to move to
        "PYTHONPATH": os.pathsep.join(filter(None, [packages, os.environ.get("PYTHONPATH")])),
        **extra,
    }


def _wait_until_up(head: Head, log_path: Path) -> None:
    headers = {"Authorization": f"Bearer {head.auth_token}"}
    with httpx.Client(base_url=head.dashboard_url, headers=headers, trust_env=False, timeout=10.0) as client:

        def is_up() -> bool:
            if not head.session.runs():
                raise HeadStartFailed(f"Ray ended while starting: {_last_line(log_path)}; see {log_path}")
            try:
                response = client.get("/api/serve/applications/")
            except httpx.TransportError:
                return False
            if response.status_code in (401, 403):  # waiting would not change its mind
                raise HeadStartFailed(
                    f"{head.dashboard_url} refuses this head's token, so it is another's or has another "
                    f"token; try again, and see {log_path}"
                )
            return response.is_success

        if not until(is_up, START_TIMEOUT_S):
            raise HeadStartFailed(
                f"Ray did not answer at {head.dashboard_url} within {START_TIMEOUT_S:g} s; see {log_path}"
            )


def _end(head: Head) -> None:
    head.session.end()
    shutil.rmtree(head.temp_dir, ignore_errors=True)


def _read(state_dir: Path) -> Head | None:
    path = _state_path(state_dir)
    try:
        return TypeAdapter(Head).validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise HeadFileBroken(
            f"{path}: cannot be read or is no head's; delete it, and end a head that still runs by hand "
            "(`pgrep -af /tmp/etr-` shows it)"
        ) from error


def _state_path(state_dir: Path) -> Path:
    return state_dir / "head.json"


def _token_path(temp_dir: str) -> Path:
    return Path(temp_dir, "auth_token")


def _write_private(path: Path, text: str) -> None:
    """Whoever reads `path` meanwhile sees the old file or the new one. The lock allows only one writer."""
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.touch(mode=0o600)
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"

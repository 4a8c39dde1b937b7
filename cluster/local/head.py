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
from cluster.local.haproxy import haproxy_env
from cluster.local.ports import free_ports
from cluster.local.process_session import Session
from cluster.polling import until
from cluster.process_lock import LockHeld, exclusive
from cluster.ray_env import OBJECT_STORE_BYTES, RAY_ENV
from experts.files import write_atomic

START_TIMEOUT_S = 90.0
# They would name another cluster, or override our token file.
FOREIGN_VARIABLES = ("RAY_ADDRESS", "RAY_AUTH_TOKEN")


@dataclass(frozen=True, slots=True)
class Head:
    """A head that was started, as recorded in head.json in the state folder."""

    pid: int
    dashboard_url: str
    temp_dir: str
    auth_token: str

    @property
    def session(self) -> Session:
        return Session(self.pid, mark=self.temp_dir)

    @property
    def metrics_targets(self) -> Path:
        """The file in which Ray lists the metrics ports of all nodes, as Prometheus reads it."""
        return Path(self.temp_dir, "session_latest", "prom_metrics_service_discovery.json")


def state_root() -> Path:
    """The folder in which `etr` keeps its state for this user, with one folder per cluster."""
    named = os.environ.get("ETR_STATE_DIR")
    return Path(named).expanduser() if named else Path.home() / ".local" / "state" / "etr"


def start_head(
    state_dir: Path,
    *,
    num_cpus: int | None = None,
    dashboard_port: int | None = None,
    env: Mapping[str, str] | None = None,
) -> Head:
    """Start a head and wait until Serve's REST API answers. It continues when this process ends.

    If a head runs already, it is returned as it is.

    Args:
        state_dir: the state folder of the cluster.
        num_cpus: the CPUs that Ray may hand out; None: as many as the machine has.
        dashboard_port: None: any free port.
        env: goes to every process of the cluster.

    Raises:
        HeadFileBroken: head.json cannot be read.
        HeadBusy: another process is starting or stopping the same head.
        HeadStartFailed: Ray did not start; every process of it has been ended.
    """
    with _head_lock(state_dir):
        running = find_head(state_dir)
        if running:
            return running
        _clean_up(state_dir)
        return _start(state_dir, num_cpus, dashboard_port, env or {})


def find_head(state_dir: Path) -> Head | None:
    """The head that was started with this state folder, if it still runs. Raises HeadFileBroken."""
    head = _read(state_dir)
    return head if head and head.session.runs() else None


def stop_head(state_dir: Path) -> bool:
    """End the head and every process that it started. False if none was started with this folder.

    Raises:
        HeadBusy, HeadFileBroken.
    """
    if not state_dir.is_dir():  # the lock would create it
        return False
    with _head_lock(state_dir):
        return _clean_up(state_dir)


def _clean_up(state_dir: Path) -> bool:
    """End what is left of a head, even if it crashed; False if there was none."""
    head = _read(state_dir)
    if head is None:
        return False
    _end(head)
    _state_path(state_dir).unlink()
    return True


@contextmanager
def _head_lock(state_dir: Path) -> Iterator[None]:
    try:
        with exclusive(state_dir / "lock"):
            yield
    except LockHeld as error:
        raise HeadBusy(
            f"another etr is starting or stopping this cluster ({error}, {state_dir}); wait for it"
        ) from error


def _start(state_dir: Path, num_cpus: int | None, dashboard_port: int | None, env: Mapping[str, str]) -> Head:
    log_path = state_dir / "head.log"
    dashboard, gcs, client, agent = free_ports(4)
    dashboard = dashboard_port or dashboard
    # In /tmp, because Unix sockets below it have paths of at most 107 characters.
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
        "--min-worker-port": 0,  # any free ports: the default range may collide with another cluster's
        "--max-worker-port": 0,
        "--object-store-memory": OBJECT_STORE_BYTES,
        "--include-log-monitor": False,  # it sends every log line to drivers, and none reads them
    }
    if num_cpus is not None:
        options["--num-cpus"] = num_cpus
    # -P: do not import modules from the folder in which `etr` is called.
    ray = [sys.executable, "-P", "-m", "ray.scripts.scripts"]
    flags = [str(part) for option in options.items() for part in option]
    return [*ray, "start", "--head", "--block", "--disable-usage-stats", *flags]


def _environment(temp_dir: str, extra: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}
    packages = str(Path(__file__).resolve().parents[2])  # replicas import `deployments` from there
    return inherited | {
        **RAY_ENV,
        **haproxy_env(Path(temp_dir)),
        # Ray's own ports listen on every interface: every connection must present the token.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(_token_path(temp_dir)),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # there is no other node to drain to
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
            if response.status_code in (401, 403):  # waiting would not help
                raise HeadStartFailed(
                    f"{head.dashboard_url} refuses this head's token, so another program listens there or "
                    f"the head has another token; try again, and see {log_path}"
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
            f"{path}: cannot be read, or does not describe a head; delete it, and end a head that still runs "
            "by hand (`pgrep -af /tmp/etr-` shows it)"
        ) from error


def _state_path(state_dir: Path) -> Path:
    return state_dir / "head.json"


def _token_path(temp_dir: str) -> Path:
    return Path(temp_dir, "auth_token")


def _write_private(path: Path, text: str) -> None:
    write_atomic(path, text.encode(), mode=0o600)


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"

"""Make a running cluster what cluster.yaml says, and wait until it answers."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cluster.config import ClusterConfig
from cluster.errors import ApplyBusy, ApplyTimeout, DeployFailed
from cluster.events import ANSWERS, AppEvent, OnEvent
from cluster.hosts import serving_url
from cluster.local import state_root
from cluster.lock import LockHeld, exclusive
from cluster.opening import Opening
from cluster.plan import Change, Plan, make_plan
from cluster.progress import Progress
from cluster.serve_client import ServeClient
from cluster.serve_config import META_APP, ROUTER_APP
from cluster.session import until
from cluster.status import DEPLOYING, RUNNING


def apply(
    config: ClusterConfig,
    client: ServeClient,
    on_event: OnEvent = lambda event: None,
    *,
    timeout_s: float = 600.0,
    poll_s: float = 1.0,
) -> str:
    """Converge the cluster behind `client`, and return its URL once it answers.

    Applying the same config again restarts and changes nothing, but tries again what has failed. Interrupting
    it is safe: Serve goes on, and the next apply does the rest. Applications that cluster.yaml does not name
    leave: first no answer is handed to them any more, then they finish what they write, then they stop.

    Raises:
        ConfigError: before anything is touched.
        ApplyBusy: another process of this machine is changing the same cluster; nothing was touched.
        ApplySuperseded: another machine changed it meanwhile.
        DeployFailed: applications, or adapters of a pool, failed; all others serve, if the meta and the
            router are among them.
        ApplyTimeout: not there yet.
        ServeUnreachable, ServeRefused.
    """
    with _only_one(client.address):
        plan = make_plan(config, client)
        url = serving_url(config.http.host, config.http.port, client.address)
        told = _of_changed(plan, on_event)
        change = _Change(plan, url, Progress(client, told), told, _Wait(timeout_s, poll_s))
        change.make_way()
        change.deploy()
        change.see_off()
        change.require_all()
        return url


class _Wait:
    """One limit for all that is waited for."""

    def __init__(self, timeout_s: float, poll_s: float) -> None:
        self.timeout_s = timeout_s
        self._poll_s = poll_s
        self._deadline_s = time.monotonic() + timeout_s

    def until(self, condition: Callable[[], bool]) -> bool:
        return until(condition, self._deadline_s - time.monotonic(), self._poll_s)


class _Change:
    """The steps from what runs to what is planned."""

    def __init__(self, plan: Plan, url: str, progress: Progress, on_event: OnEvent, wait: _Wait) -> None:
        self._plan = plan
        self._url = url
        self._progress = progress
        self._on_event = on_event
        self._wait = wait
        self._failed_adapters: dict[str, str] = {}

    def make_way(self) -> None:
        """The new table reaches every router before anything leaves, so that nobody is sent there."""
        if self._plan.first is None:
            return
        self._progress.put(self._plan.first)
        routers = [] if ROUTER_APP in self._plan.retried else [ROUTER_APP]
        if not self._wait.until(lambda: self._progress.settled(routers)):
            raise self._late(self._progress.pending())
        if ROUTER_APP in self._progress.failed:
            self.require_all()
        if not self._wait.until(lambda: self._progress.gone(self._plan.retried)):
            raise self._late(f"{', '.join(sorted(self._plan.retried))} failed and is not gone yet")

    def deploy(self) -> None:
        """Start and change everything, and wait until every model has answered a question."""
        self._progress.put(self._plan.deploy)
        if not self._wait.until(self._progress.settled):
            raise self._late(self._progress.pending())
        if self._progress.failed.keys() & {META_APP, ROUTER_APP}:  # then nobody answers
            return
        opening = Opening(self._url, self._plan.deploy, set(self._progress.failed), self._on_event)
        if not self._wait.until(opening.done):
            raise ApplyTimeout(
                f"{self._url} does not answer for all after {self._wait.timeout_s:g} s: {opening.last_seen}"
            )
        self._failed_adapters = opening.failed_adapters

    def see_off(self) -> None:
        """Wait for what leaves: it ends when the last answer that it writes does."""
        leaving = [app["name"] for app in self._plan.leaving]
        if not self._wait.until(lambda: self._progress.gone(leaving)):
            raise ApplyTimeout(
                f"{', '.join(leaving)} still writes after {self._wait.timeout_s:g} s; it gets no new "
                "requests and stops by itself; see `etr status`"
            )

    def require_all(self) -> None:
        if failed := {**self._progress.failed, **self._failed_adapters}:
            raise DeployFailed.of(failed)

    def _late(self, pending: str) -> ApplyTimeout:
        return ApplyTimeout(f"not running after {self._wait.timeout_s:g} s: {pending}; see `etr status`")


def _of_changed(plan: Plan, on_event: OnEvent) -> OnEvent:
    """Serve calls every application of a PUT deploying for a moment; of those that stay as they are nobody
    wants to hear that, only of what goes wrong with them."""
    kept = {change.app for change in plan.changes if change.change is Change.KEEP}

    def told(event: AppEvent) -> None:
        if event.app.partition("/")[0] not in kept or event.status not in (DEPLOYING, RUNNING, ANSWERS):
            on_event(event)

    return told


@contextmanager
def _only_one(address: str) -> Iterator[None]:
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    try:
        with exclusive(state_root() / "locks" / f"apply-{digest}"):
            yield
    except LockHeld as held:
        raise ApplyBusy(
            f"another `etr apply` is changing the cluster at {address} ({held}); wait for it, or end it: "
            "interrupting it is safe"
        ) from held

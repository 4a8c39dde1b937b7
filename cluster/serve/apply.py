"""Make a running cluster what cluster.yaml says, and wait until it answers."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cluster.addresses import serving_url
from cluster.config.cluster_config import ClusterConfig
from cluster.errors import ApplyBusy, ApplyTimeout, DeployFailed
from cluster.local.head import state_root
from cluster.polling import until
from cluster.process_lock import LockHeld, exclusive
from cluster.serve.app_names import META_APP, ROUTER_APP
from cluster.serve.app_status import ANSWERS, AppEvent, OnEvent
from cluster.serve.client import ServeClient
from cluster.serve.plan import Change, Plan, make_plan
from cluster.serve.progress import Progress
from cluster.serve.readiness import ReadinessCheck
from cluster.serve.serve_details import DEPLOYING, RUNNING


def apply(
    config: ClusterConfig,
    client: ServeClient,
    on_event: OnEvent = lambda event: None,
    *,
    timeout_s: float = 600.0,
    poll_s: float = 1.0,
) -> str:
    """Converge the cluster behind `client`, and return its URL once it answers.

    Applying the same config again restarts and changes nothing, but tries again what has failed. It is safe
    to interrupt: Serve continues, and the next apply completes it. Applications that cluster.yaml does not
    name are removed in three steps: no new answer is handed over to them, they finish the answers that they
    write, they stop.

    Raises:
        ConfigError: before anything is changed.
        ApplyBusy: another process of this machine is changing the same cluster; nothing was changed.
        ApplySuperseded: another machine changed the cluster meanwhile.
        DeployFailed: applications, or adapters of a pool, failed; all others serve, if the meta and the
            router are not among the failed.
        ApplyTimeout: the change is not complete within `timeout_s`.
        ServeUnreachable, ServeRefused.
    """
    with _apply_lock(client.address):
        plan = make_plan(config, client)
        url = serving_url(config.http.host, config.http.port, client.address)
        report = _without_noise(plan, on_event)
        change = _Change(plan, url, Progress(client, report), report, _Deadline(timeout_s, poll_s))
        change.mask_removed()
        change.deploy()
        change.wait_for_drain()
        change.require_all()
        return url


class _Deadline:
    """One time limit for all waits of a change."""

    def __init__(self, timeout_s: float, poll_s: float) -> None:
        self.timeout_s = timeout_s
        self._poll_s = poll_s
        self._deadline_s = time.monotonic() + timeout_s

    def until(self, condition: Callable[[], bool]) -> bool:
        return until(condition, self._deadline_s - time.monotonic(), self._poll_s)


class _Change:
    """The steps from what runs to what is planned."""

    def __init__(
        self, plan: Plan, url: str, progress: Progress, on_event: OnEvent, deadline: _Deadline
    ) -> None:
        self._plan = plan
        self._url = url
        self._progress = progress
        self._on_event = on_event
        self._deadline = deadline
        self._running = dict(plan.made_from)
        self._failed_adapters: dict[str, str] = {}

    def mask_removed(self) -> None:
        """Give every router the new table first, so that no answer is handed over to what is removed."""
        if self._plan.first is None:
            return
        self._put(self._plan.first)
        routers = [] if ROUTER_APP in self._plan.retried else [ROUTER_APP]
        if not self._deadline.until(lambda: self._progress.settled(routers)):
            raise self._not_running(self._progress.pending())
        if ROUTER_APP in self._progress.failed:
            self.require_all()
        if not self._deadline.until(lambda: self._progress.gone(self._plan.retried)):
            raise self._not_running(f"{', '.join(sorted(self._plan.retried))} failed and is not gone yet")

    def deploy(self) -> None:
        """Start and change everything, and wait until every model has answered the router."""
        self._put(self._plan.deploy)
        if not self._deadline.until(self._progress.settled):
            raise self._not_running(self._progress.pending())
        if self._progress.failed.keys() & {META_APP, ROUTER_APP}:  # the router cannot become ready
            return
        failed = set(self._progress.failed)
        readiness = ReadinessCheck(self._url, self._plan.deploy, failed, self._on_event)
        if not self._deadline.until(readiness.done):
            raise ApplyTimeout(
                f"the router at {self._url} has no answer from {', '.join(readiness.waiting_for)} after "
                f"{self._deadline.timeout_s:g} s; `etr status` says why; then run `etr apply` again"
            )
        self._failed_adapters = readiness.failed_adapters

    def wait_for_drain(self) -> None:
        """Wait until the removed applications have finished their last answers and are gone."""
        removed = [app["name"] for app in self._plan.removed]
        if not self._deadline.until(lambda: self._progress.gone(removed)):
            raise ApplyTimeout(
                f"not stopped after {self._deadline.timeout_s:g} s: {', '.join(removed)}; they get no new "
                "requests and stop when their answers end; see `etr status`"
            )

    def require_all(self) -> None:
        if failed := {**self._progress.failed, **self._failed_adapters}:
            raise DeployFailed.of(failed)

    def _put(self, deploy: dict[str, Any]) -> None:
        self._progress.put(deploy, self._running)
        self._running = {app["name"]: app for app in deploy["applications"]}

    def _not_running(self, pending: str) -> ApplyTimeout:
        return ApplyTimeout(f"not running after {self._deadline.timeout_s:g} s: {pending}; see `etr status`")


def _without_noise(plan: Plan, on_event: OnEvent) -> OnEvent:
    """Drop the events of unchanged applications: Serve reports them as deploying and running after a PUT."""
    kept = {change.app for change in plan.changes if change.change is Change.KEEP}

    def report(event: AppEvent) -> None:
        if event.app.partition("/")[0] not in kept or event.status not in (DEPLOYING, RUNNING, ANSWERS):
            on_event(event)

    return report


@contextmanager
def _apply_lock(address: str) -> Iterator[None]:
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    try:
        with exclusive(state_root() / "locks" / f"apply-{digest}"):
            yield
    except LockHeld as error:
        raise ApplyBusy(
            f"another `etr apply` is changing the cluster at {address} ({error}); wait for it, or end it: "
            "interrupting it is safe"
        ) from error

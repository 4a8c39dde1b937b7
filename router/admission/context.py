"""What the queues know of one client request."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class AdmissionContext:
    """One client request, as the queues see it; its generations, one for each choice, share the object.

    `key` is the name of the API key, `queue_s` how long a call may wait for its slot, and `max_waiting` how
    many calls may wait in all queues together. `meta_app` is the application that decides, if the request is
    routed, and `expert_apps` are those to which it may hand over.
    """

    queue_s: float
    max_waiting: int
    key: str = ""
    meta_app: str | None = None
    expert_apps: Collection[str] = ()
    admitted_apps: set[str] = field(default_factory=set)  # those that gave one of the generations a slot

    def wait_limit_s(self, app: str, left_s: float) -> float:
        """How long a call may wait for a slot of `app`, if the answer has `left_s` until its deadline.

        If one choice of the request has had a slot there, the other choices may wait until the deadline.
        Otherwise a request with more choices than slots could never be served.
        """
        return left_s if app in self.admitted_apps else min(self.queue_s, left_s)

    def upstream_of(self, app: str) -> str | None:
        """The application that admitted the request and handed it over to `app`."""
        return self.meta_app if app != self.meta_app and self.meta_app in self.admitted_apps else None

    def downstream_of(self, app: str) -> Collection[str]:
        """The applications that `app` may hand the request over to."""
        return self.expert_apps if app == self.meta_app else ()

"""What the queues know of one client request."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class AdmissionContext:
    """One client request, as the queues see it; its generations, one for each choice, share the object.

    `queue_s` is how long a call may wait for its slot, and `max_waiting` how many calls may wait in all
    queues together. `key` is the name of the API key. Keys with the lowest `key_priority` are served first,
    and of the waiting requests of one key those with the lowest `priority`.
    """

    queue_s: float
    max_waiting: int
    key: str = ""
    priority: int = 0
    key_priority: int = 0
    admitted_apps: set[str] = field(default_factory=set)  # those that gave one of the generations a slot

    def wait_limit_s(self, app: str, left_s: float) -> float:
        """How long a call may wait for a slot of `app`, if the answer has `left_s` until its deadline.

        If one choice of the request has had a slot there, the other choices may wait until the deadline.
        Otherwise a request with more choices than slots could never be served.
        """
        return left_s if app in self.admitted_apps else min(self.queue_s, left_s)

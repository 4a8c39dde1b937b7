"""Which replica has which call, and how many calls this process has under way."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass

from deployments.replicas.probe_ids import is_probe

MAX_ENDED_CALLS = 1024  # a caller that ended a silent call asks a moment later which replica had it


@dataclass(slots=True)
class CallPlacement:
    """Which replica a call was sent to, and whether it accepted it. A replica that hangs accepts none."""

    replica: str | None = None
    is_accepted: bool = False


class CallPlacements:
    """The calls of one application, by request id."""

    def __init__(self) -> None:
        self.num_open: Counter[str | None] = Counter()  # calls under way, by adapter
        self.num_begun = 0  # since the start; probes are not counted
        self._open: dict[str, CallPlacement] = {}
        self._ended: OrderedDict[str, CallPlacement] = OrderedDict()
        self._accepted: set[str] = set()

    @property
    def num_accepted(self) -> int:
        """How many open calls a replica has accepted."""
        return len(self._accepted)

    def began(self, request_id: str, adapter: str | None = None) -> None:
        """A call that resumes an earlier answer has the same id."""
        self._open[request_id] = CallPlacement()
        self.num_open[adapter] += 1
        self.num_begun += not is_probe(request_id)

    def placed(self, request_id: str, replica: str | None) -> None:
        """The call was sent to the replica; None: it still waits for one."""
        if request_id in self._open:
            self._open[request_id] = CallPlacement(replica)
        else:
            self._remember(request_id, CallPlacement(replica))

    def accepted(self, request_id: str) -> None:
        self.find(request_id).is_accepted = True
        if request_id in self._open:  # it may have ended before the replica's acceptance arrived
            self._accepted.add(request_id)

    def ended(self, request_id: str, adapter: str | None = None) -> None:
        self.num_open[adapter] -= 1
        self._accepted.discard(request_id)
        if request_id in self._open:
            self._remember(request_id, self._open.pop(request_id))

    def find(self, request_id: str) -> CallPlacement:
        """Where the latest call with this id is or was; nowhere if the id is not known (any more)."""
        return self._open.get(request_id) or self._ended.get(request_id) or CallPlacement()

    def _remember(self, request_id: str, placement: CallPlacement) -> None:
        self._ended[request_id] = placement
        self._ended.move_to_end(request_id)
        if len(self._ended) > MAX_ENDED_CALLS:
            self._ended.popitem(last=False)

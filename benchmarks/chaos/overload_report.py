"""What came of the load that was more than the cluster can take, and which promises it broke."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.chaos.replies import Ending

GREEDY, MODEST, LATER = "greedy", "modest", "later"  # the names of the keys
MAX_REFUSED_MS = 100.0
MAX_RSS_GROWTH = 1.1
MIN_MODEST_SHARE = 0.8  # of the modest client's requests
MAX_LATER_SHARE = 0.5  # of its requests: some came before the slots were taken, some after the burst
MAX_RECOVERED_S = 10.0  # a second or two more than the queue of the burst takes


@dataclass(frozen=True)
class OverloadReport:
    """`asked`, `answered`: requests of each key, and those with a whole answer. `refused_p99_ms`: measured by
    the router (a response header). `refused_p99_client_ms`: measured by the clients, which share the machine.
    `growth`: RSS afterwards relative to RSS before."""

    capacity_per_s: float
    offered_per_s: float
    burst_s: float
    endings: dict[str, int]
    num_late: int
    num_malformed_refusals: int
    first_text_p99_s: float
    longest_s: float
    refused_p99_ms: float
    refused_p99_client_ms: float
    asked: dict[str, int]
    answered: dict[str, int]
    growth: dict[str, float]
    recovered_s: float
    freed_s: float
    examples: list[str]

    def share(self, key: str) -> float:
        """The part of the key's requests that was answered."""
        return self.answered[key] / max(1, self.asked[key])

    def broken(self) -> list[str]:
        good = (Ending.WHOLE, Ending.REFUSED)
        problems = [f"{num} answers {end}" for end, num in self.endings.items() if num and end not in good]
        problems += [
            f"{app}: RSS grew to {ratio:.2f} ×"
            for app, ratio in self.growth.items()
            if ratio > MAX_RSS_GROWTH
        ]
        num_malformed = self.num_malformed_refusals
        limits = {
            f"{self.num_late} accepted answers missed their deadline": self.num_late == 0,
            f"{num_malformed} refusals without error envelope or Retry-After": num_malformed == 0,
            "nothing was refused": self.endings[Ending.REFUSED] > 0,
            f"refusals took {self.refused_p99_ms:.0f} ms": self.refused_p99_ms <= MAX_REFUSED_MS,
            "the modest client did not get its share": self.share(MODEST) >= MIN_MODEST_SHARE,
            "the key of lower priority was answered as often": self.share(LATER) <= MAX_LATER_SHARE,
            f"the first answer began {self.recovered_s:.1f} s after the burst": self.recovered_s
            <= MAX_RECOVERED_S,
        }
        return problems + [promise for promise, is_kept in limits.items() if not is_kept]

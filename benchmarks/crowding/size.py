"""What a number of experts costs, and its picture."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

WAYS = ("routed", "direct")
COLOURS = {
    "routed": "#1f6f8b",
    "direct": "#b0bec5",
    "router": "#1f6f8b",
    "meta": "#c0392b",
    "controller": "#7f8c8d",
}


@dataclass
class Size:
    """`first_ms` and `whole_ms`: of each answer, by way. `put_s`: until the PUT of a table with one expert
    more is accepted; `seen_s`: until it is seen. `rss_mb`: by application."""

    num_experts: int
    deploy_kb: float = 0.0
    build_s: float = 0.0  # from cluster.yaml to the deploy config
    start_s: float = 0.0  # of the whole cluster, where it is started with so many
    first_ms: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    whole_ms: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    put_s: list[float] = field(default_factory=list)
    seen_s: list[float] = field(default_factory=list)
    rss_mb: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "num_experts": self.num_experts,
            "first_ms": {way: round(statistics.median(self.first_ms[way]), 1) for way in self.first_ms},
            "whole_ms": {way: round(statistics.median(self.whole_ms[way]), 1) for way in self.whole_ms},
            "put_s": round(statistics.median(self.put_s), 2),
            "seen_s": round(statistics.median(self.seen_s), 2),
            "rss_mb": {app: round(mb) for app, mb in self.rss_mb.items()},
            "build_s": round(self.build_s, 2),
            "deploy_kb": round(self.deploy_kb),
            "start_s": round(self.start_s, 1),
        }


def write_picture(sizes: Mapping[str, Sequence[Size]], folder: Path) -> Path:
    """A row of panels for each kind of cluster: latency, memory, the time of a change."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(13, 3.6 * len(sizes)), layout="constrained")
    rows = figure.subplots(len(sizes), 3, squeeze=False)
    for axes, (kind, some) in zip(rows, sizes.items(), strict=True):
        _latency(axes[0], some, kind)
        _memory(axes[1], some)
        _change(axes[2], some)
    path = folder / "many_experts.png"
    figure.savefig(path, dpi=150)
    return path


def _latency(axes: Axes, sizes: Sequence[Size], kind: str) -> None:
    for way in WAYS:
        for what, style in (("first_ms", "--"), ("whole_ms", "-")):
            heights = [statistics.median(getattr(size, what)[way]) for size in sizes]
            label = f"{way}, {'first token' if what == 'first_ms' else 'whole answer'}"
            axes.plot(_xs(sizes), heights, style, marker="o", color=COLOURS[way], label=label)
    axes.set_title(kind, loc="left", fontweight="bold")
    _finish(axes, sizes, "latency, ms, median, one stream")


def _memory(axes: Axes, sizes: Sequence[Size]) -> None:
    for app in sizes[0].rss_mb:
        axes.plot(_xs(sizes), [size.rss_mb[app] for size in sizes], marker="o", color=COLOURS[app], label=app)
    _finish(axes, sizes, "resident memory, MB")


def _change(axes: Axes, sizes: Sequence[Size]) -> None:
    seen_s = [statistics.median(size.seen_s) for size in sizes]
    axes.plot(_xs(sizes), seen_s, marker="o", color=COLOURS["router"], label="until the new expert is there")
    put_s = [statistics.median(size.put_s) for size in sizes]
    axes.plot(_xs(sizes), put_s, "--", marker="o", color=COLOURS["direct"], label="until the PUT is accepted")
    _finish(axes, sizes, "one expert more, s")


def _xs(sizes: Sequence[Size]) -> list[int]:
    return [size.num_experts for size in sizes]


def _finish(axes: Axes, sizes: Sequence[Size], ylabel: str) -> None:
    axes.set_xscale("log")
    axes.set_xticks(_xs(sizes), [f"{num:,}" for num in _xs(sizes)])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("experts")
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")

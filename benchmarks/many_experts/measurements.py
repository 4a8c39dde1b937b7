"""What is measured with one number of experts, and a plot of it."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

MODES = ("routed", "direct")
COLOURS = {
    "routed": "#1f6f8b",
    "direct": "#b0bec5",
    "router": "#1f6f8b",
    "meta": "#c0392b",
    "controller": "#7f8c8d",
}


@dataclass
class Measurements:
    """`first_ms`, `whole_ms`: by mode, the time of each answer until its first token and until its end.
    `put_s`, `effective_s`: the time of each change until it was accepted and until it was effective.
    `rss_mb`: by application."""

    num_experts: int
    deploy_kb: float = 0.0
    build_s: float = 0.0  # from cluster.yaml to the deploy config
    start_s: float = 0.0  # of the whole cluster; 0 if it was started with another number of experts
    first_ms: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    whole_ms: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    put_s: list[float] = field(default_factory=list)
    effective_s: list[float] = field(default_factory=list)
    rss_mb: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "num_experts": self.num_experts,
            "first_ms": {mode: round(statistics.median(self.first_ms[mode]), 1) for mode in self.first_ms},
            "whole_ms": {mode: round(statistics.median(self.whole_ms[mode]), 1) for mode in self.whole_ms},
            "put_s": round(statistics.median(self.put_s), 2),
            "effective_s": round(statistics.median(self.effective_s), 2),
            "rss_mb": {app: round(mb) for app, mb in self.rss_mb.items()},
            "build_s": round(self.build_s, 2),
            "deploy_kb": round(self.deploy_kb),
            "start_s": round(self.start_s, 1),
        }


def write_plot(measurements: Mapping[str, Sequence[Measurements]], folder: Path) -> Path:
    """A row of panels for each kind of cluster: latency, memory, the time of a change."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(13, 3.6 * len(measurements)), layout="constrained")
    rows = figure.subplots(len(measurements), 3, squeeze=False)
    for axes, (kind, own) in zip(rows, measurements.items(), strict=True):
        _latency(axes[0], own, kind)
        _memory(axes[1], own)
        _change(axes[2], own)
    path = folder / "many_experts.png"
    figure.savefig(path, dpi=150)
    return path


def _latency(axes: Axes, measurements: Sequence[Measurements], kind: str) -> None:
    for mode in MODES:
        for key, style in (("first_ms", "--"), ("whole_ms", "-")):
            heights = [statistics.median(getattr(measured, key)[mode]) for measured in measurements]
            label = f"{mode}, {'first token' if key == 'first_ms' else 'whole answer'}"
            axes.plot(_xs(measurements), heights, style, marker="o", color=COLOURS[mode], label=label)
    axes.set_title(kind, loc="left", fontweight="bold")
    _finish(axes, measurements, "latency, ms, median, one stream")


def _memory(axes: Axes, measurements: Sequence[Measurements]) -> None:
    for app in measurements[0].rss_mb:
        axes.plot(
            _xs(measurements),
            [measured.rss_mb[app] for measured in measurements],
            marker="o",
            color=COLOURS[app],
            label=app,
        )
    _finish(axes, measurements, "resident memory, MB")


def _change(axes: Axes, measurements: Sequence[Measurements]) -> None:
    effective_s = [statistics.median(measured.effective_s) for measured in measurements]
    axes.plot(
        _xs(measurements),
        effective_s,
        marker="o",
        color=COLOURS["router"],
        label="until the change is effective",
    )
    put_s = [statistics.median(measured.put_s) for measured in measurements]
    axes.plot(
        _xs(measurements), put_s, "--", marker="o", color=COLOURS["direct"], label="until the PUT is accepted"
    )
    _finish(axes, measurements, "one expert more, s")


def _xs(measurements: Sequence[Measurements]) -> list[int]:
    return [measured.num_experts for measured in measurements]


def _finish(axes: Axes, measurements: Sequence[Measurements], ylabel: str) -> None:
    axes.set_xscale("log")
    axes.set_xticks(_xs(measurements), [f"{num:,}" for num in _xs(measurements)])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("experts")
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")

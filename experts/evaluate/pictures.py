"""Draws an evaluation as pictures, without pyplot, which would keep all figures in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experts.evaluate.evaluation import Evaluation
from experts.evaluate.intervals import Estimate
from experts.evaluate.methods import NO_EXPERT, TOKENS, Method

_DOTS_PER_INCH = 150
_OWN_COLOUR, _OTHER_COLOUR, _FALSE_COLOUR = "#1f6f8b", "#b8c4cc", "#c0392b"
_DARK = 0.55  # cells above this share of their row are dark, and have white numbers
_INCHES_PER_NAME = 0.62


def write_pictures(evaluation: Evaluation, folder: Path) -> None:
    """Writes confusion.png, accuracy.png and trigger_rate.png."""
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Callable[[Evaluation], Figure]] = {
        "confusion.png": confusion_figure,
        "accuracy.png": accuracy_figure,
        "trigger_rate.png": trigger_figure,
    }
    for file, draw in figures.items():
        draw(evaluation).savefig(folder / file, dpi=_DOTS_PER_INCH)


def confusion_figure(evaluation: Evaluation) -> Figure:
    """A cell's number is a count; its shade is the count's share of the row."""
    names = [*evaluation.names, NO_EXPERT]
    counts = np.array(evaluation.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.2 + _INCHES_PER_NAME * len(names)
    # The figure grows with the number of names, because shrunken numbers could not be read.
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > _DARK else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("expert that took over")
    axes.set_ylabel("expert that should take over")
    axes.set_title("Hand-overs by expert tokens, number of queries")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, format=PercentFormatter(1.0))
    bar.set_label("share of the row")
    return figure


def accuracy_figure(evaluation: Evaluation) -> Figure:
    """A panel for decisions and, if there are answers, one for each reading of them."""
    panels: list[tuple[str, list[Estimate]]] = [
        ("right decisions", [method.decisions.estimate for method in evaluation.methods])
    ]
    for reading in ("strict", "lenient") if evaluation.has_answers else ():
        scores = [getattr(method, reading) for method in evaluation.methods]
        panels.append((f"right answers, {reading}", [score.accuracy.estimate for score in scores]))
    height = 1.4 + 0.38 * len(evaluation.methods)
    figure = Figure(figsize=(2.0 + 3.6 * len(panels), height), layout="constrained")
    drawn = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, estimates) in zip(drawn, panels, strict=True):
        _draw_bars(axes, evaluation.methods, estimates)
        axes.set_title(title)
    figure.supxlabel("share of the queries, with 95 % bootstrap intervals", fontsize="medium")
    return figure


def _draw_bars(axes: Axes, methods: Sequence[Method], estimates: Sequence[Estimate]) -> None:
    means = [estimate.mean for estimate in estimates]
    # Rounding can put a bound slightly on the wrong side of its mean, which matplotlib refuses.
    errors = [
        [max(0.0, estimate.mean - estimate.low) for estimate in estimates],
        [max(0.0, estimate.high - estimate.mean) for estimate in estimates],
    ]
    colours = [_OWN_COLOUR if method.name == TOKENS else _OTHER_COLOUR for method in methods]
    places = np.arange(len(methods))
    axes.barh(places, means, xerr=errors, color=colours, ecolor="black", capsize=3)
    for place, estimate in zip(places, estimates, strict=True):
        right = max(estimate.high, estimate.mean)
        axes.text(right + 0.02, float(place), f"{estimate.mean:.3f}", va="center", fontsize="small")
    axes.set_yticks(places, [method.name for method in methods])
    axes.set_xlim(0, 1.18)  # room for the numbers of full bars
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    if not axes.yaxis_inverted():  # shared by all panels
        axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def trigger_figure(evaluation: Evaluation) -> Figure:
    """Shares of queries handed over rightly and falsely, by call bias. Undefined shares are left out."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    biases = [point.call_bias for point in evaluation.sweep]
    right = [point.accuracy for point in evaluation.sweep]
    false = [point.false_trigger_rate for point in evaluation.sweep]
    axes.plot(biases, right, color=_OWN_COLOUR, label="experts' queries, right hand-over")
    axes.plot(biases, false, color=_FALSE_COLOUR, label="general queries, false hand-over")
    label = f"call bias now: {evaluation.call_bias:g}"
    axes.axvline(evaluation.call_bias, color="black", linestyle="--", linewidth=1, label=label)
    axes.set_xlabel("call bias, added to the logits of all experts")
    axes.set_ylabel("share of queries")
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title("More hand-overs, right and false")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    return figure

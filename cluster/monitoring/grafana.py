"""A Grafana board, from its panels: rows of graphs of Prometheus queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

SCHEMA_VERSION = 41  # of Grafana 12
NUM_COLUMNS = 24
HEIGHTS = {"stat": 4, "timeseries": 8}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Of a variable for which all is chosen. It also matches series that lack the label, as on a single machine.
ALL = ".*"


@dataclass(frozen=True)
class Panel:
    """A graph, or a number, of the `queries`: PromQL by the legend of its series.

    `unit` is one of Grafana's names, `width` counts columns, of which a board has 24.
    """

    title: str
    queries: Mapping[str, str]
    unit: str = "short"
    width: int = 8
    kind: Literal["timeseries", "stat"] = "timeseries"
    description: str = ""


@dataclass(frozen=True)
class Board:
    """`variables` are PromQL's `label_values` by the names of what a user can choose."""

    uid: str
    title: str
    panels: Sequence[Panel]
    variables: Mapping[str, str]


def board_json(board: Board) -> dict[str, Any]:
    """The board as Grafana imports it."""
    return {
        "uid": board.uid,
        "title": board.title,
        "tags": ["etr"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_datasource(), *(_variable(*pair) for pair in board.variables.items())]},
        "links": [{"type": "dashboards", "title": "etr", "tags": ["etr"], "asDropdown": True}],
        "panels": list(_placed(board.panels)),
    }


def _placed(panels: Sequence[Panel]) -> Iterator[dict[str, Any]]:
    """From left to right, in rows whose panels are equally high."""
    x = y = row_height = 0
    for number, panel in enumerate(panels, 1):
        if x + panel.width > NUM_COLUMNS:
            x, y, row_height = 0, y + row_height, 0
        row_height = max(row_height, HEIGHTS[panel.kind])
        yield _panel(number, panel, {"h": HEIGHTS[panel.kind], "w": panel.width, "x": x, "y": y})
        x += panel.width


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + i), "datasource": DATASOURCE, "expr": expr, "legendFormat": legend}
        for i, (legend, expr) in enumerate(panel.queries.items())
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # when the time range changes
        "sort": 1,
        "includeAll": True,
        "allValue": ALL,
        "current": {"text": "All", "value": "$__all"},
    }

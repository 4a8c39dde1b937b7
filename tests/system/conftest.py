"""The served cluster with a shadow expert and a decision log, applied in place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from cluster.config.cluster_config import load_config
from cluster.serve.app_status import status
from cluster.serve.apply import apply
from cluster.serve.connect import connect_to


@dataclass(frozen=True)
class Watched:
    """The cluster with a shadow and a decision log. `restarted`: whether a replica was replaced for that."""

    url: str
    log: Path
    restarted: bool


@pytest.fixture(scope="module")
def watched(served, tmp_path_factory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("decisions")
    config = yaml.safe_load(served.config.source.read_text("utf-8"))
    token = config["experts"]["roman"]["token"]
    config["experts"]["roman-v2"] = {"shadow": True, "token": token, "replaces": "roman"}
    config["router"] = {**config.get("router", {}), "decision_log": {"folder": str(folder / "log")}}
    path = served.config.source.with_name("watched.yaml")
    path.write_text(yaml.safe_dump(config), "utf-8")
    with connect_to(served.head) as client:
        before = {app.name: [replica.pid for replica in app.replicas] for app in status(client)}
        apply(load_config(path), client)
        after = {app.name: [replica.pid for replica in app.replicas] for app in status(client)}
        yield Watched(served.url, folder / "log", before != after)
        apply(served.config, client)

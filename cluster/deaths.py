"""How a replica died, by Ray's account: Serve itself says no more than that a health check failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.serve_client import ServeClient

DETAIL = "Worker exit detail: "


def last_death(client: ServeClient, app: Mapping[str, Any]) -> str:
    """In one line, the end of the last replica of an application that did not end as it was told to.

    `app` is what Serve's details say of it. Empty where nobody remembers.

    Raises:
        ServeUnreachable, ServeRefused.
    """
    dead = [one for deployment in app["deployments"].values() for one in deployment["recent_dead_replicas"]]
    for replica in reversed(dead):
        if why := _why(client, replica["actor_id"]):
            return f"its process {replica.get('pid')} on {replica.get('node_ip')} died: {why}"
    return ""


def _why(client: ServeClient, actor_id: str) -> str:
    only = f"filter_keys=actor_id&filter_predicates=%3D&filter_values={actor_id}"
    actors = client.get(f"/api/v0/actors?detail=1&{only}")["data"]["result"]["result"]
    contexts = [context for actor in actors for context in (actor.get("death_cause") or {}).values()]
    # Whoever is told to end, by Serve or by Ray, has another reason.
    crashes = [one for one in contexts if one.get("reason", "OOM") in ("OOM", "WORKER_DIED", "NODE_DIED")]
    return _first_sentences(crashes[0].get("error_message", "")) if crashes else ""


def _first_sentences(message: str) -> str:
    """Ray adds what it might have been, at length."""
    detail = message.rpartition(DETAIL)[2].partition(" Some common causes")[0]
    return detail.strip().splitlines()[0].rstrip(".") if detail.strip() else ""

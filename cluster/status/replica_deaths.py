"""How a replica died, as Ray knows it: Serve reports only that a health check failed."""

from __future__ import annotations

from cluster.serve.client import ServeClient
from cluster.serve.serve_details import AppDetails
from cluster.status.dashboard_state import ActorState, list_state

DETAIL = "Worker exit detail: "
CRASHES = ("OOM", "WORKER_DIED", "NODE_DIED")  # Ray's reasons; a replica that Serve or Ray ended has others


def last_death(client: ServeClient, app: AppDetails) -> str:
    """One line about the last replica of an application that crashed; empty if Ray remembers none.

    Raises:
        ServeUnreachable, ServeRefused.
    """
    dead = [replica for deployment in app.deployments.values() for replica in deployment.recent_dead_replicas]
    for replica in reversed(dead):
        if replica.actor_id and (why := _cause(client, replica.actor_id)):
            return f"its process {replica.pid} on {replica.node_ip} died: {why}"
    return ""


def _cause(client: ServeClient, actor_id: str) -> str:
    actors = list_state(client, "actors", ActorState, actor_id=actor_id)
    contexts = [context for actor in actors for context in (actor.death_cause or {}).values() if context]
    crashes = [context for context in contexts if context.get("reason", "OOM") in CRASHES]
    return _first_line(str(crashes[0].get("error_message", ""))) if crashes else ""


def _first_line(message: str) -> str:
    """Without the list of possible causes that Ray appends."""
    detail = message.rpartition(DETAIL)[2].partition(" Some common causes")[0]
    return detail.strip().splitlines()[0].rstrip(".") if detail.strip() else ""

"""Which replica this process is, in traces."""

from __future__ import annotations

from ray import serve
from ray.serve.exceptions import RayServeException


def app_name() -> str:
    try:
        return serve.get_replica_context().app_name
    except RayServeException:  # not in a replica
        return ""


def replica_name() -> str:
    try:
        return serve.get_replica_context().replica_tag
    except RayServeException:
        return ""

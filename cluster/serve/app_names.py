"""The names of a cluster's Serve applications."""

from __future__ import annotations

META_APP = "meta"
ROUTER_APP = "router"
_EXPERT = "expert-"
_POOL = "pool-"
_EMBEDDER = "embedder-"


def expert_app(name: str) -> str:
    return f"{_EXPERT}{name}"


def pool_app(name: str) -> str:
    return f"{_POOL}{name}"


def embedder_app(name: str) -> str:
    return f"{_EMBEDDER}{name}"


def pool_of(app: str) -> str | None:
    """The name of the pool, if `app` is the application of one."""
    return app.removeprefix(_POOL) if app.startswith(_POOL) else None


def adapter_name(app: str, expert: str) -> str:
    """How events and errors name one expert of a pool, whose application is `app`."""
    return f"{app}/{expert}"

"""What the Serve applications of a cluster are called."""

from __future__ import annotations

META_APP = "meta"
ROUTER_APP = "router"
_EXPERT = "expert-"
_POOL = "pool-"


def expert_app(name: str) -> str:
    return f"{_EXPERT}{name}"


def pool_app(name: str) -> str:
    return f"{_POOL}{name}"


def pool_of(app: str) -> str | None:
    """The pool whose application it is, if it is one's."""
    return app.removeprefix(_POOL) if app.startswith(_POOL) else None


def adapter_name(app: str, expert: str) -> str:
    """An expert that shares the application of its pool, where something is said of it alone."""
    return f"{app}/{expert}"

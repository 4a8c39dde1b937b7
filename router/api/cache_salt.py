"""The salt of a request: only requests with the same one share what a model keeps of their beginnings."""

from __future__ import annotations

from hashlib import blake2b

from router.table import RouteTable


def cache_salt(table: RouteTable, key: str, given: str | None) -> str | None:
    """None: the request shares caches with all others that have no salt.

    `key` is the name of the request's API key, empty without keys, and `given` the request's own
    `cache_salt`. The salt is a digest, so models and their logs learn neither.
    """
    scope = key if table.separate_caches else ""
    if not scope and given is None:  # nearly always
        return None
    digest = blake2b(digest_size=16)
    for part in (scope, given or ""):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()


def tells_cache(table: RouteTable) -> bool:
    """Whether a client may learn how much of its prompt a model had in its cache: never what other keys have
    sent."""
    return table.separate_caches or not table.keys

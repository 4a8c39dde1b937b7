"""API keys: which key a request carries, and which experts that key may reach."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from router.api_key import ApiKey
from router.errors import Unauthorized
from router.table import RouteTable


def bearer_digest(authorization: str | None) -> str | None:
    """The SHA-256 digest of the key in an `Authorization` header; None if the header holds no bearer key."""
    scheme, _, presented = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not presented.strip():
        return None
    return digest_of(presented.strip())


def key_digest(headers: Mapping[str, str]) -> str | None:
    """The `bearer_digest` of a request; without it, the digest of the key in `x-api-key`."""
    presented = headers.get("x-api-key", "").strip()
    return bearer_digest(headers.get("authorization")) or (digest_of(presented) if presented else None)


def find_key(keys: Mapping[str, ApiKey], digest: str | None) -> ApiKey | None:
    """The key with this `key_digest`; None if the cluster has no keys, and so needs none.

    A dict lookup is safe here: its timing can only tell about digests, and a digest does not reveal a key.

    Args:
        keys: Every key by its digest, as `RouteTable.keys_by_digest`.

    Raises:
        Unauthorized: the request carries no key or an unknown one. The message never repeats the key.
    """
    if not keys:
        return None
    if digest is None:
        raise Unauthorized(
            "missing API key: send the header 'Authorization: Bearer KEY', or 'x-api-key: KEY'"
        )
    if digest not in keys:
        raise Unauthorized("unknown or revoked API key: ask the operator of this cluster for a valid one")
    return keys[digest]


def permitted(table: RouteTable, key: ApiKey | None) -> RouteTable:
    """The route table with only the experts and embedders that `key` may reach, and with its priority.

    Everything that is decoded, listed or looked up for a request uses this table, so the others do not exist
    for it. Every key may use the generalist and the meta.
    """
    if key is None:
        return table
    changes: dict[str, object] = {"key_priority": key.priority} if key.priority else {}
    if key.experts is not None:
        changes |= _restricted(table, frozenset(key.experts))
    return table.model_copy(update=changes) if changes else table


def digest_of(key: str) -> str:
    """The SHA-256 digest of a key's UTF-8 text, in hex.

    API keys are long and random, so they need neither a salt nor a slow hash.
    """
    return hashlib.sha256(key.encode()).hexdigest()


def _restricted(table: RouteTable, reachable: frozenset[str]) -> dict[str, object]:
    """What of the table changes if only these models can be reached; nothing if that is all of them."""
    if {*table.experts, *table.embedders} <= reachable and reachable.issuperset(table.shadows):
        return {}
    return {
        "experts": {name: entry for name, entry in table.experts.items() if name in reachable},
        "embedders": {name: entry for name, entry in table.embedders.items() if name in reachable},
        "shadows": tuple(name for name in table.shadows if name in reachable),
    }

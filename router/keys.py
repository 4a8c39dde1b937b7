"""API keys: who asks, and which part of the cluster exists for them."""

from __future__ import annotations

import hashlib
import hmac

from router.errors import Unauthorized
from router.table import ApiKey, RouteTable


def find_key(keys: tuple[ApiKey, ...], authorization: str | None) -> ApiKey | None:
    """Whose key an `Authorization` header carries; None where there are no keys, and everybody may ask.

    Raises:
        Unauthorized: no key was given, or none that is known. The message never has what was given.
    """
    if not keys:
        return None
    scheme, _, presented = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not presented.strip():
        raise Unauthorized("no API key was given: send it as 'Authorization: Bearer KEY'")
    digest = digest_of(presented.strip())
    found = None
    # Every key is compared, each in constant time: how long it takes tells nothing about any of them.
    for key in keys:
        if hmac.compare_digest(key.sha256, digest):
            found = key
    if found is None:
        raise Unauthorized("this API key is not known (any more): ask whoever runs the cluster for one")
    return found


def permitted(table: RouteTable, key: ApiKey | None) -> RouteTable:
    """The table as it is for this key: with its experts alone, so that no other one exists for what is
    decoded, listed or named against it. The generalist and the meta are everybody's."""
    if key is None or key.experts is None:
        return table
    reached = frozenset(key.experts)
    if table.experts.keys() <= reached:
        return table
    experts = {name: entry for name, entry in table.experts.items() if name in reached}
    return table.model_copy(update={"experts": experts})


def digest_of(key: str) -> str:
    """The hex SHA-256 of a key's UTF-8 text.

    Keys are long and random, so one fast hash without salt is as safe as a slow one with.
    """
    return hashlib.sha256(key.encode()).hexdigest()

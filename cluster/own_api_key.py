"""The API key that the `etr` commands send to a router."""

from __future__ import annotations

import os

KEY_VARIABLE = "ETR_API_KEY"


def authorization() -> dict[bytes, bytes]:
    """The header to send; empty if the variable is not set."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    # As bytes, so that an unsuitable key reaches the router, which refuses it.
    return {b"authorization": b"Bearer " + os.fsencode(key)} if key else {}

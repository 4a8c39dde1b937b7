"""The API key by which our own commands ask a router that wants one."""

from __future__ import annotations

import os

KEY_VARIABLE = "ETR_API_KEY"


def authorization() -> dict[bytes, bytes]:
    """The header to send; empty where the variable is not set."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    # Bytes, for a key that is none is the router's to refuse.
    return {b"authorization": b"Bearer " + os.fsencode(key)} if key else {}

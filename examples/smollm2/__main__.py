"""`python -m examples.smollm2 FOLDER` makes a checkpoint of SmolLM2-135M-Instruct in FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

from examples.smollm2.checkpoint import make_checkpoint
from examples.smollm2.errors import CheckpointError


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m examples.smollm2 FOLDER", file=sys.stderr)
        return 2
    try:
        folder = make_checkpoint(Path(sys.argv[1]).resolve(), report=print)
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"SmolLM2-135M-Instruct is in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The folder `.etr` beside a cluster.yaml: caches and locks that can be recreated at any time."""

from __future__ import annotations

from pathlib import Path

NAME = ".etr"


def hidden_folder(parent: Path) -> Path:
    """Make `parent`/.etr, which git ignores. Raises OSError if `parent` is not a writable folder."""
    folder = parent / NAME
    folder.mkdir(exist_ok=True)
    ignored = folder / ".gitignore"
    if not ignored.exists():
        ignored.write_text("*\n", encoding="utf-8")
    return folder

"""Debian's Prometheus and its promtool, which `make system-packages` installs."""

from __future__ import annotations

import shutil

import pytest


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(
            f"!!! NOT CHECKED by Prometheus: there is no {name}; `make system-packages` installs it !!!"
        )
    return found

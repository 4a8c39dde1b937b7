"""One small cluster for the tests of faults: a head, a worker node and six replicas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.chaos.world import World, served


@pytest.fixture(scope="module")
def world(taught_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("chaos")
    with served(
        folder, taught_world, num_nodes=1, num_questions=4, max_tokens=48, experts=("roman",)
    ) as world:
        yield world

"""One small cluster for all of these tests: a head, a worker node, six replicas that are killed in turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults.world import World, served


@pytest.fixture(scope="session")
def world(demo_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("chaos")
    with served(folder, demo_world, num_nodes=1, num_questions=4, max_tokens=48, experts=("roman",)) as world:
        yield world

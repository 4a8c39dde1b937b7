"""One tiny checkpoint for the tests of each file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny.models import save_tiny_llama
from tests.tiny.tokenizers import byte_level


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "meta"
    save_tiny_llama(folder, byte_level(), head_dim=32)
    return folder

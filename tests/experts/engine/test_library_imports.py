"""Imports of an engine's libraries: what they leave out, and what the garbage collector leaves out."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from experts.engine.library_imports import UNUSED, library_imports


@pytest.fixture(autouse=True)
def _nothing_stays_frozen() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_an_unused_library_is_regarded_as_missing_and_can_be_imported_afterwards(monkeypatch):
    monkeypatch.delitem(sys.modules, UNUSED, raising=False)
    with library_imports():
        assert find_spec(UNUSED) is None
        with pytest.raises(ImportError):
            importlib.import_module(UNUSED)
    assert UNUSED not in sys.modules


def test_a_library_that_is_used_already_stays(monkeypatch):
    monkeypatch.setitem(sys.modules, UNUSED, gc)
    with library_imports():
        assert importlib.import_module(UNUSED) is gc
    assert sys.modules[UNUSED] is gc


def test_the_garbage_collector_works_again_after_a_failed_import():
    with pytest.raises(ImportError, match="no_such_library"):
        _import_nothing()
    assert gc.isenabled()


@pytest.mark.parametrize("imported", [True, False])
def test_only_a_first_import_stays_out_of_the_garbage_collector(monkeypatch, imported):
    before = gc.get_freeze_count()
    with library_imports():
        assert not gc.isenabled()
        if imported:
            monkeypatch.setitem(sys.modules, "a_new_library", gc)
    assert (gc.get_freeze_count() > before) is imported


def _import_nothing() -> None:
    with library_imports():
        importlib.import_module("no_such_library")

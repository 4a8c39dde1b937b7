"""Examples of a seed do not change with what else is imported."""

from __future__ import annotations

import importlib

from hypothesis import strategies as st

from benchmarks.chaos.fuzzing.seeded_examples import draw_examples


def test_examples_depend_only_on_the_seed_and_not_on_the_modules_that_are_imported(tmp_path, monkeypatch):
    numbers = st.lists(st.integers())
    before = draw_examples(numbers, 50, seed=1)
    (tmp_path / "module_with_constants.py").write_text(f"NUMBERS = {list(range(3000, 3900))}\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("module_with_constants")
    assert draw_examples(numbers, 50, seed=1) == before
    assert draw_examples(numbers, 50, seed=2) != before

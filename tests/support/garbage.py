"""A plugin of pytest: the garbage collector does not look through what is imported and collected.

It took a third of the CPU time of short tests. A plugin, because `conftest.py` imports most of it.
"""

from __future__ import annotations

import gc

gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # triton complains of what is left when Python exits

"""How the libraries of an engine are imported: most of what a new replica of a small model computes."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# transformers imports scikit-learn wherever it is installed, for a way of decoding that no engine here has.
UNUSED = "sklearn"


@contextmanager
def library_imports() -> Iterator[None]:
    """For imports of modules that stay as long as the process.

    The garbage collector does not look through them, neither meanwhile nor while the replica serves.
    """
    num_modules = len(sys.modules)
    hidden = UNUSED not in sys.modules
    if hidden:
        sys.modules[UNUSED] = None  # type: ignore[assignment]  # for Python, it is not installed
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if hidden:
            del sys.modules[UNUSED]
        if len(sys.modules) > num_modules:
            gc.freeze()
            atexit.register(gc.unfreeze)  # triton complains of what is left when Python exits
        if enabled:
            gc.enable()

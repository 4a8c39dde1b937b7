"""How much work Python code does, without a clock."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def num_steps(work: Callable[[], Any]) -> int:
    """The number of bytecode instructions that `work` executes; loops inside of C functions do not count."""
    found = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal found
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        found += event == "opcode"
        return trace

    before = sys.gettrace()
    gc.collect()  # finalizers of other tests' objects would count
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return found

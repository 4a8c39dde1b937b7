"""How the answers of an engine are compared with those of PEFT."""

from __future__ import annotations

import pytest
import torch

from benchmarks.handoff.exact import DIFFERENT, EQUAL, NEAR, verdict

LOGITS = [torch.tensor([0.0, 3.0, 1.0]), torch.tensor([2.0, 1.9995, 0.0]), torch.tensor([0.0, 0.0, 5.0])]
EXPECTED = [1, 0, 2]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([1, 0, 2], EQUAL),
        ([1, 1, 0], NEAR),  # what follows the near tie is another answer
        ([2, 0, 2], DIFFERENT),
        ([1, 0], DIFFERENT),
        ([1, 0, 2, 2], DIFFERENT),
    ],
)
def test_only_a_near_tie_may_differ(found: list[int], expected: str):
    assert verdict(found, EXPECTED, LOGITS) == expected

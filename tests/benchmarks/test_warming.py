"""Which starts of sleeping experts would help, counted from the probabilities of answers."""

import torch

from benchmarks.warming.__main__ import Steps, count

LATE = Steps(torch.tensor([[0.1, 0.0], [0.3, 0.0], [0.9, 0.1]]), winner=0)
AT_START = Steps(torch.tensor([[0.2, 0.7]]), winner=1)
NO_EXPERT = Steps(torch.tensor([[0.0, 0.3], [0.0, 0.4]]), winner=None)


def test_a_start_helps_if_the_probability_is_reached_before_the_token_wins():
    found = count([LATE, AT_START, NO_EXPERT], 0.3)
    assert (found.leads, found.num_false_starts) == ([1], 1)


def test_a_lower_threshold_starts_earlier_and_more_often_in_vain():
    found = count([LATE, AT_START, NO_EXPERT], 0.1)
    assert (found.leads, found.num_false_starts) == ([2], 3)

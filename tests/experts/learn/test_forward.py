"""The forward pass computes no logits that are not needed, and hardly any padding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from experts.learn import compute_states, forward
from experts.learn.targets import find_targets
from tests.tiny.taught_meta import EXPERTS

BATCH_SIZE = 8


@pytest.fixture
def targets(renderer, queries):
    return [find_targets(query, renderer, EXPERTS) for query in queries]


def test_the_head_is_applied_to_target_positions_alone_and_in_slices(
    taught_model, renderer, queries, targets, states, monkeypatch
):
    max_rows = 3
    monkeypatch.setattr(forward, "_MAX_LOGITS", max_rows * len(renderer.tokenizer))
    forward_pass = forward.ForwardPass(taught_model, BATCH_SIZE)
    sizes: list[int] = []
    hook = forward_pass.head.register_forward_hook(lambda _module, _args, out: sizes.append(len(out)))
    rows = forward_pass(list(enumerate(targets)))
    hook.remove()
    assert sum(sizes) == sum(len(one.positions) for one in targets)
    assert max(sizes) == max_rows
    for name in ("log_z", "max_logit", "target_logit"):
        torch.testing.assert_close(rows[name], getattr(states, name), atol=1e-4, rtol=1e-4)


def test_batches_have_queries_of_similar_lengths(taught_model, renderer, queries, targets):
    computed: list[int] = []
    body: nn.Module = taught_model.model
    hook = body.register_forward_pre_hook(
        lambda _module, _args, named: computed.append(named["input_ids"].numel()), with_kwargs=True
    )
    compute_states(taught_model, renderer, queries, batch_size=BATCH_SIZE)
    hook.remove()
    lengths = sorted((len(one.ids) for one in targets), reverse=True)
    batches = [lengths[start : start + BATCH_SIZE] for start in range(0, len(lengths), BATCH_SIZE)]
    assert [length for length in computed if length > 1][-len(batches) :] == [
        len(batch) * batch[0] for batch in batches
    ]

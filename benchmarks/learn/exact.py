"""Is the cached loss equal to the loss of the whole model? One batch in float32."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.learn.metas import toy_meta
from benchmarks.learn.questions import draw_queries
from benchmarks.learn.report import target
from benchmarks.learn.setting import Setting
from benchmarks.learn.whole_model import WholeModel, collate
from experts.learn.hidden_states import compute_states
from experts.learn.loss import TokenLoss
from experts.learn.targets import find_targets


@dataclass(frozen=True)
class Exact:
    """Differences between the cached loss and the cross entropy of the whole model over [W_V; W_E]."""

    hidden_size: int
    num_queries: int
    num_positions: int
    loss: float
    loss_difference: float = target("<= 1e-5")
    weight_gradient_difference: float = target("<= 1e-5, largest of all")
    bias_gradient_difference: float = target("<= 1e-5, largest of all")


def exact(setting: Setting) -> Exact:
    """Rows and biases are random, because gradients vanish at a minimum."""
    meta = toy_meta(setting)
    queries = draw_queries("exact", num_per_expert=3, num_general=6)
    states = compute_states(meta.model, meta.renderer, queries)
    torch.manual_seed(0)
    rows = states.head_mean + 0.1 * torch.randn(len(states.expert_names), len(states.head_mean))
    bias = torch.randn(len(rows))

    whole = WholeModel(meta.model, rows, bias, with_bias=True)
    targets = [find_targets(query, meta.renderer, states.expert_names) for query in queries]
    full_loss = whole(**collate(targets, meta.num_words))
    by_rows, by_bias = torch.autograd.grad(full_loss, [whole.rows, whole.bias])
    loss, weight_gradient, bias_gradient = TokenLoss(states, states.expert_names)(
        rows.double(), bias.double()
    )
    return Exact(
        hidden_size=rows.shape[1],
        num_queries=len(queries),
        num_positions=len(states),
        loss=loss,
        loss_difference=abs(loss - full_loss.item()),
        weight_gradient_difference=float((weight_gradient - by_rows).abs().max()),
        bias_gradient_difference=float((bias_gradient - by_bias).abs().max()),
    )

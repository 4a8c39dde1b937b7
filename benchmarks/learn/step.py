"""The cost of a decode step with a thousand experts in the head, compared with none."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.learn.report import target
from benchmarks.learn.setting import Setting
from experts.head import ExpertTable, ExtendedHead, decide

_NUM_CACHED = 64


@dataclass(frozen=True)
class StepCost:
    """Medians over pairs of steps. `ratio`: the median of the ratios of the pairs.

    The two steps of a pair share one pass through the layers, because its noise is larger than the difference
    of the heads. `plain_head_ms` and `routing_head_ms`: the time after that pass.
    """

    batch_size: int
    num_pairs: int
    layers_ms: float
    plain_head_ms: float
    routing_head_ms: float
    ratio: float


@dataclass(frozen=True)
class Step:
    num_parameters: int
    hidden_size: int
    num_words: int
    num_experts: int
    ratio_alone: float = target("<= 1.02, batch of 1")
    ratio_of_eight: float = target("<= 1.02, batch of 8")
    batches: tuple[StepCost, ...] = ()


@torch.inference_mode()
def step(setting: Setting) -> Step:
    """The model has random weights, which do not change the cost."""
    model = _random_model(setting)
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    extended = _extended(model, head, num_experts=setting.size(1000, 50))
    costs = tuple(_cost(setting, model, extended, batch_size) for batch_size in (1, 8))
    return Step(
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        hidden_size=head.in_features,
        num_words=head.out_features,
        num_experts=len(extended.table.names),
        ratio_alone=costs[0].ratio,
        ratio_of_eight=costs[1].ratio,
        batches=costs,
    )


def _random_model(setting: Setting) -> PreTrainedModel:
    hidden_size = setting.size(2048, 64)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=setting.size(32_000, 500),
            hidden_size=hidden_size,
            intermediate_size=hidden_size * 11 // 4,
            num_hidden_layers=setting.size(6, 2),
            num_attention_heads=hidden_size // 32,
            max_position_embeddings=512,
            tie_word_embeddings=False,
        )
    )
    frozen: PreTrainedModel = model.eval()
    return frozen


def _extended(model: PreTrainedModel, head: nn.Linear, num_experts: int) -> ExtendedHead:
    names = tuple(f"expert-{index:04}" for index in range(num_experts))
    weight = 0.02 * torch.randn(num_experts, head.in_features)
    extended = ExtendedHead(model)
    extended.install(ExpertTable(1, names, weight, torch.zeros(num_experts)))
    return extended


def _cost(setting: Setting, model: PreTrainedModel, extended: ExtendedHead, batch_size: int) -> StepCost:
    layers = _layers(model, batch_size)
    head = model.get_output_embeddings()
    heads = {"plain": _plain(head), "routing": _routing(head, extended, batch_size)}
    num_pairs = setting.size(100, 3)
    seconds: dict[str, list[float]] = {name: [] for name in ("layers", *heads)}
    for pair in range(num_pairs + 2):
        began_s = time.perf_counter()
        hidden = layers()
        taken = {"layers": time.perf_counter() - began_s}
        for name in sorted(heads, reverse=pair % 2 == 0):  # they take turns to be first
            began_s = time.perf_counter()
            heads[name](hidden)
            taken[name] = time.perf_counter() - began_s
        for name in seconds if pair >= 2 else ():  # the first two warm up
            seconds[name].append(taken[name])
    triples = zip(seconds["layers"], seconds["plain"], seconds["routing"], strict=True)
    return StepCost(
        batch_size=batch_size,
        num_pairs=num_pairs,
        layers_ms=1e3 * statistics.median(seconds["layers"]),
        plain_head_ms=1e3 * statistics.median(seconds["plain"]),
        routing_head_ms=1e3 * statistics.median(seconds["routing"]),
        ratio=statistics.median((layer + routing) / (layer + plain) for layer, plain, routing in triples),
    )


def _layers(model: PreTrainedModel, batch_size: int) -> Callable[[], Tensor]:
    """Returns a function that runs one token with a filled cache and returns its hidden states [B, d]."""
    ids = torch.randint(model.config.vocab_size, (batch_size, _NUM_CACHED + 1))
    cache = DynamicCache(config=model.config)
    model.base_model(ids[:, :-1], past_key_values=cache)

    def run() -> Tensor:
        hidden: Tensor = model.base_model(ids[:, -1:], past_key_values=cache).last_hidden_state[:, -1]
        cache.crop(-1)
        return hidden

    return run


def _plain(head: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda hidden: head(hidden).argmax(dim=-1)


def _routing(head: nn.Module, extended: ExtendedHead, batch_size: int) -> Callable[[Tensor], Tensor]:
    """Like the engines: decide first, then choose a word."""
    # Masks are made once for each request; the requests are batched at every step.
    num_experts = len(extended.table.names)
    allowed = [torch.ones(num_experts, dtype=torch.bool) for _ in range(batch_size)]
    bias = [torch.zeros(num_experts) for _ in range(batch_size)]
    rows = torch.arange(batch_size)

    def choose(hidden: Tensor) -> Tensor:
        words = head(hidden)
        experts = extended.table.logits(hidden, extended.transform)
        expert = decide(words, rows, experts, torch.stack(allowed), torch.stack(bias)).expert
        return torch.where(expert >= 0, expert + extended.num_words, words.argmax(dim=-1))

    return choose

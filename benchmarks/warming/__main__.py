"""Would it pay to start a sleeping expert before its token wins? The demo's meta and tokens, no cluster.

The meta answers held-out questions of all domains and general ones greedily, and every step has the
probability of each expert. An expert starts at the first step at which its probability reaches a threshold.
That helps if the step is earlier than the one at which its token wins; a start of any other expert is false.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel

from cluster.config.cluster_config import load_config
from examples.smollm2.checkpoint import make_checkpoint
from examples.smollm2.learn import TOKENS
from examples.smollm2.query_set import held_out_queries
from examples.smollm2.run import CHECKPOINT, CONFIG, to_query
from experts.checkpoint import Checkpoint
from experts.head import ExpertTable
from experts.learn.own_answers import write_answers
from experts.learn.queries import Query
from experts.prompt import PromptRenderer
from experts.token import ExpertToken

THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


@dataclass(frozen=True)
class Steps:
    """One answer up to its hand-over. `probabilities`: [T, E]. `winner`: the expert that wins at the last
    step; None: no expert wins."""

    probabilities: Tensor
    winner: int | None


@dataclass(frozen=True)
class Counts:
    """Of one threshold. `leads`: by how many steps each start that helps is ahead of the hand-over."""

    threshold: float
    leads: list[int]
    num_false_starts: int


def count(answers: Sequence[Steps], threshold: float) -> Counts:
    leads: list[int] = []
    num_false_starts = 0
    for each in answers:
        reached = each.probabilities >= threshold
        for expert in range(reached.shape[1]):
            first = next((step for step, passed in enumerate(reached[:, expert].tolist()) if passed), None)
            if first is None:
                continue
            if expert != each.winner:
                num_false_starts += 1
            elif first < len(reached) - 1:
                leads.append(len(reached) - 1 - first)
    return Counts(threshold, leads, num_false_starts)


class Meta:
    """The demo's meta with the tokens of its experts."""

    def __init__(self, model: PreTrainedModel, renderer: PromptRenderer, tokens: Sequence[ExpertToken]):
        self._model: Any = model
        self._renderer = renderer
        self._experts = ExpertTable.of(1, tokens, tokens[0].vector.shape[0])
        self._call_bias = load_config(CONFIG).routing.call_bias

    def answers(self, queries: Sequence[Query], num_tokens: int) -> list[Steps]:
        """Of at most `num_tokens` tokens. Most experts take over at the first one."""
        prompts = [self._renderer.chat(query.messages) for query in queries]
        steps = [self._steps(prompt, []) for prompt in prompts]
        longer = [index for index, each in enumerate(steps) if each.winner is None]
        texts = write_answers(
            self._model, self._renderer, [queries[index] for index in longer], num_new_tokens=num_tokens
        )
        for index, text in zip(longer, texts, strict=True):
            written = self._renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
            steps[index] = self._steps(prompts[index], written)
        return steps

    @torch.inference_mode()
    def _steps(self, prompt: Sequence[int], written: Sequence[int]) -> Steps:
        output = self._model.model(input_ids=torch.tensor([[*prompt, *written]]))
        hidden = output.last_hidden_state[0, len(prompt) - 1 :]
        words = self._model.lm_head(hidden)
        experts = hidden @ self._experts.weight.T + self._experts.bias + self._call_bias
        probabilities = torch.cat([experts, words], dim=1).softmax(dim=1)[:, : experts.shape[1]]
        wins = (experts.amax(dim=1) > words.amax(dim=1)).nonzero()
        if not len(wins):
            return Steps(probabilities, None)
        at = int(wins[0])
        return Steps(probabilities[: at + 1], int(experts[at].argmax()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-each", type=int, default=20, help="questions of each domain")
    parser.add_argument("--num-general", type=int, default=100)
    parser.add_argument("--num-tokens", type=int, default=48, help="of each answer of the meta")
    arguments = parser.parse_args()
    make_checkpoint(CHECKPOINT, report=print)
    tokens = [ExpertToken.load(path) for path in sorted(TOKENS.glob("*.safetensors"))]
    meta = Meta(*Checkpoint(str(CHECKPOINT), dtype="float32").load(), tokens)
    questions = held_out_queries(arguments.num_each, arguments.num_general, seed=4)
    _report(meta.answers([to_query(question) for question in questions], arguments.num_tokens))


def _report(answers: Sequence[Steps]) -> None:
    lengths = [len(each.probabilities) for each in answers if each.winner is not None]
    at_start = lengths.count(1)
    print(f"{len(answers)} answers, {len(lengths)} hand-overs, {at_start} of them at the first token")
    counts = [count(answers, threshold) for threshold in THRESHOLDS]
    table = Table("threshold", "starts that help", "steps ahead", "false starts")
    for each in counts:
        table.add_row(
            str(each.threshold), str(len(each.leads)), str(sorted(each.leads)), str(each.num_false_starts)
        )
    Console().print(table)
    rows = [{**vars(each)} for each in counts]
    numbers = {"num_answers": len(answers), "num_handoffs": len(lengths), "num_at_start": at_start}
    print(json.dumps({"benchmark": "warming", **numbers, "thresholds": rows}))


if __name__ == "__main__":
    main()

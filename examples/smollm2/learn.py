"""Learns the expert tokens of the demo: `python -m examples.smollm2.learn CHECKPOINT` writes them.

The tokens of several query sets are averaged. Each set has other inputs, phrasings and typos, so what only
one of them suggests counts less: fewer general questions are handed over for the same share of right experts.
The demo's tokens are averaged with those of `etr learn` too, from `python -m examples.smollm2.query_set`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from transformers import PreTrainedModel

from cluster.cli.print_stages import stages
from examples.smollm2.domains import DOMAINS
from examples.smollm2.query_set import train_queries
from examples.smollm2.run import to_query
from experts.checkpoint import Checkpoint
from experts.learn.hidden_states import Progress, compute_states
from experts.learn.learn import learn_tokens
from experts.learn.own_answers import with_answers, write_answers
from experts.learn.queries import Query
from experts.prompt import PromptRenderer
from experts.token import ExpertToken

TOKENS = Path(__file__).with_name("tokens")
NUM_EACH, NUM_GENERAL = 200, 461  # of one query set; there are no more general questions
NUM_ANSWERS_EACH = 40
NUM_ANSWER_TOKENS = 48
L2 = 0.003

console = Console(highlight=False)


def main() -> None:
    arguments = _arguments()
    meta, renderer = Checkpoint(str(arguments.checkpoint), dtype="float32").load()
    with stages(console) as progress:
        learned = [_learned(meta, renderer, seed, progress) for seed in arguments.seeds]
    for tokens in zip(*learned, strict=True):
        token, file = mean(tokens), f"{tokens[0].name}.safetensors"
        if arguments.average_with is not None:
            token = mean([token, ExpertToken.load(arguments.average_with / file)])
        token.save(arguments.output / file)


def mean(tokens: Sequence[ExpertToken]) -> ExpertToken:
    """The mean of tokens of one expert. It has no scores: nothing was judged with it."""
    vector = torch.stack([token.vector for token in tokens]).mean(dim=0)
    bias = sum(token.bias for token in tokens) / len(tokens)
    digests = "+".join(token.dataset_digest for token in tokens)
    return replace(tokens[0], vector=vector, bias=bias, dataset_digest=digests, scores={})


def _learned(
    meta: PreTrainedModel, renderer: PromptRenderer, seed: int, progress: Progress
) -> list[ExpertToken]:
    """From one query set, with the meta's own answers to all general questions and some of each domain."""
    queries = [to_query(question) for question in train_queries(NUM_EACH, NUM_GENERAL, seed)]
    chosen = sorted(_answered(queries))
    texts = write_answers(
        meta,
        renderer,
        [queries[index] for index in chosen],
        num_new_tokens=NUM_ANSWER_TOKENS,
        progress=progress,
    )
    answered = with_answers(queries, dict(zip(chosen, texts, strict=True)), late=False)
    states = compute_states(meta, renderer, answered, progress=progress)
    return learn_tokens(states, answered, l2=L2, held_out_share=0.0, progress=progress).tokens


def _answered(queries: Sequence[Query]) -> Iterator[int]:
    for expert in (None, *DOMAINS):
        own = [index for index, query in enumerate(queries) if query.expert == expert]
        yield from own if expert is None else own[:NUM_ANSWERS_EACH]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="from `python -m examples.smollm2 FOLDER`")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8], help="one for each query set")
    parser.add_argument(
        "--average-with", type=Path, help="folder of tokens that weigh as much as all query sets together"
    )
    parser.add_argument("--output", type=Path, default=TOKENS)
    return parser.parse_args()


if __name__ == "__main__":
    main()

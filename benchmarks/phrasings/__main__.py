"""What makes tokens less dependent on how questions were phrased: `python -m benchmarks.phrasings`.

SmolLM2-135M and the six domains of the demo. Tokens are learned from a few questions of each domain, and
besides from what the meta can write: its own answers, paraphrases, questions about the domains, general
questions, and all of these. They are judged on questions in phrasings that none of them has, anywhere in the
meta's answers to general chat, and in the middle of the answers that the meta itself writes to the experts'
questions. A table of shares with 95 % bootstrap intervals, and last a line of JSON. Twenty minutes on
two cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from benchmarks.phrasings.variants import VARIANTS, Sources, write_sources
from cluster.cli.print_stages import stages
from examples.smollm2.checkpoint import make_checkpoint
from examples.smollm2.query_set import held_out_queries, train_queries
from examples.smollm2.run import to_query
from experts.checkpoint import Checkpoint
from experts.evaluate.intervals import Estimate, estimate
from experts.learn.hidden_states import Progress, States, compute_states
from experts.learn.learn import learn_tokens
from experts.learn.own_answers import with_answers, write_answers
from experts.learn.queries import Query
from experts.learn.routing_judge import judge, mid_answer_takeovers, route
from experts.prompt import PromptRenderer
from experts.token import ExpertToken

console = Console(highlight=False)


@dataclass(frozen=True)
class Result:
    """Shares, 0 to 1. `right_expert`: of the experts' questions. `false_handovers`: of general questions,
    anywhere in the meta's answer. `mid_answer`: of the meta's own answers to experts' questions."""

    num_queries: int
    right_expert: Estimate
    false_handovers: Estimate
    mid_answer: Estimate


def main() -> None:
    arguments = _arguments()
    make_checkpoint(arguments.checkpoint, report=console.print)
    meta, renderer = Checkpoint(str(arguments.checkpoint), dtype="float32").load()
    data = [
        to_query(question) for question in train_queries(arguments.num_each, arguments.num_general, seed=0)
    ]
    asked = [to_query(question) for question in held_out_queries(arguments.num_judged, 150, seed=1)]
    with stages(console) as progress:
        judged = _judged(meta, renderer, asked, progress)
        sources = write_sources(meta, renderer, data, arguments.num_synthesised, progress)
        results = dict(_results(meta, renderer, sources, judged, progress))
    _show(results)
    print(json.dumps({name: _as_json(result) for name, result in results.items()}))


def _judged(
    meta: PreTrainedModel, renderer: PromptRenderer, asked: Sequence[Query], progress: Progress
) -> States:
    """The states of the queries with the meta's own answers to all of them."""
    answers = write_answers(meta, renderer, asked, progress=progress)
    answered = with_answers(asked, dict(enumerate(answers)), late=False)
    return compute_states(meta, renderer, answered, progress=progress)


def _results(
    meta: PreTrainedModel, renderer: PromptRenderer, sources: Sources, judged: States, progress: Progress
) -> Iterator[tuple[str, Result]]:
    """Every variant learns from some of the same states."""
    everything = sources.queries
    states = compute_states(meta, renderer, everything, progress=progress)
    for name, kinds in VARIANTS.items():
        chosen = sources.indices(kinds)
        learned = learn_tokens(
            states.of_queries(chosen), [everything[index] for index in chosen], held_out_share=0.0
        )
        yield name, replace(_judge(judged, learned.tokens), num_queries=len(chosen))


def _judge(states: States, tokens: Sequence[ExpertToken]) -> Result:
    judgements = judge(states, tokens)
    return Result(
        num_queries=0,
        right_expert=estimate([found.is_right for found in judgements if found.expert is not None]),
        false_handovers=estimate([not found.is_right for found in judgements if found.expert is None]),
        mid_answer=estimate(mid_answer_takeovers(states, route(states, tokens))),
    )


def _show(results: dict[str, Result]) -> None:
    table = Table("learned from", "queries", "right expert", "false hand-overs", "taken over in mid-answer")
    for name, result in results.items():
        shares = (result.right_expert, result.false_handovers, result.mid_answer)
        table.add_row(name, str(result.num_queries), *map(_text, shares))
    console.print(table)


def _text(share: Estimate) -> str:
    return f"{share.mean:.3f} [{share.low:.3f}, {share.high:.3f}]"


def _as_json(result: Result) -> dict[str, object]:
    shares = {
        "right_expert": result.right_expert,
        "false_handovers": result.false_handovers,
        "mid_answer": result.mid_answer,
    }
    rounded = {
        name: [round(value, 4) for value in (share.mean, share.low, share.high)]
        for name, share in shares.items()
    }
    return {"num_queries": result.num_queries, **rounded}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=Path(".cache/smollm2"))
    parser.add_argument("--num-each", type=int, default=15, help="questions of each domain to learn from")
    parser.add_argument("--num-general", type=int, default=40, help="general questions to learn from")
    parser.add_argument("--num-synthesised", type=int, default=40, help="for each domain")
    parser.add_argument("--num-judged", type=int, default=50, help="questions of each domain to judge by")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""lm-evaluation-harness measures likelihoods and generations through this server."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

from tests.clients.conftest import Server

CITIES = ["Paris", "Rome", "Madrid", "Lisbon"]
# The model is wrong about Spain.
CAPITALS = [
    {"country": "France", "label": 0},
    {"country": "Italy", "label": 1},
    {"country": "Spain", "label": 2},
]
LIKELIHOOD = {
    "task": "capitals",
    "output_type": "multiple_choice",
    "doc_to_text": "The capital of {{country}} is",
    "doc_to_choice": CITIES,
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc"}],
}
NUMERALS = [{"number": 9, "numeral": "IX"}, {"number": 8, "numeral": "viii"}]
GENERATION = {
    "task": "numerals",
    "output_type": "generate_until",
    "doc_to_text": "What is {{number}} as a roman numeral?",
    "doc_to_target": "{{numeral}}",
    "generation_kwargs": {"until": ["\n", "Q:", "</s>", "<|im_end|>", "Question:"], "max_gen_toks": 16},
    "metric_list": [{"metric": "exact_match"}],
}


def evaluate(
    task: dict[str, Any],
    documents: list[dict[str, Any]],
    model: str,
    arguments: dict[str, Any],
    **options: Any,
) -> tuple[dict[str, Any], list[Any]]:
    """The scores of a task, and what the model answered for each document."""
    name = task["task"]
    whole = {
        **task,
        "custom_dataset": lambda **_: {"test": Dataset.from_list(documents)},
        "test_split": "test",
    }
    results = simple_evaluate(
        model,
        arguments,
        tasks=[whole],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
        **options,
    )
    assert results is not None
    return results["results"][name], [sample["resps"] for sample in results["samples"][name]]


@pytest.fixture
def completions(server: Server) -> dict[str, Any]:
    """The arguments of `local-completions`."""
    return {
        "base_url": f"{server.api}/completions",
        "tokenizer_backend": "huggingface",
        "tokenizer": str(server.tokenizer),
    }


@pytest.mark.parametrize("sends_ids", [True, False])
def test_likelihoods_choose_an_answer(server: Server, completions: dict[str, Any], sends_ids: bool):
    arguments = {**completions, "model": "generalist/meta", "tokenized_requests": sends_ids}
    scores, answers = evaluate(LIKELIHOOD, CAPITALS, "local-completions", arguments, batch_size=3)
    assert scores["acc,none"] == pytest.approx(2 / 3)
    [[paris], [rome], *_] = answers[0]
    num_tokens = len(AutoTokenizer.from_pretrained(server.tokenizer)(" Paris").input_ids)
    assert paris == (-0.125 * num_tokens, True)
    assert rome < paris
    assert not rome[1]


def test_generations_end_at_a_stop_string(server: Server):
    arguments = {"model": "generalist", "base_url": f"{server.api}/chat/completions", "num_concurrent": 2}
    scores, answers = evaluate(
        GENERATION, NUMERALS, "local-chat-completions", arguments, apply_chat_template=True
    )
    assert scores["exact_match,none"] == 0.5
    assert answers == [[["IX"]], [["VIII"]]]


def test_raw_prompts_are_continued_up_to_a_stop_string(completions: dict[str, Any]):
    _, answers = evaluate(
        GENERATION, NUMERALS, "local-completions", {**completions, "model": "generalist/roman"}
    )
    assert answers == [[["IX"]], [["VIII"]]]

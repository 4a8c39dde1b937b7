"""Candidates are scored as if each were read after its whole question, but the question is read only once."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from experts.evaluate import candidates as module
from experts.evaluate.candidates import candidate_likelihoods
from experts.learn.likelihood import Likelihood, reference_likelihoods
from experts.learn.queries import Query
from experts.prompt import PromptRenderer
from tests.tiny.tokenizers import byte_level

NAMES = ("roman", "law", "morse code", "r", "nobody")
ASKED = "choose a name for this question, please: "
QUESTIONS = [
    Query(({"role": "user", "content": ASKED + text},), place=f"line {number}")
    for number, text in enumerate(("what is ten?", "hi", "what is five? " * 4, "what is ten?"), 1)
]
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


@pytest.fixture(scope="module")
def llama(renderer) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(renderer.tokenizer), max_position_embeddings=256, **SIZES)
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def sliding(renderer) -> PreTrainedModel:
    """Half of its layers see only the last eight tokens; and it caps its logits."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(renderer.tokenizer),
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=256,
        sliding_window=8,
        initializer_range=1.0,
        **SIZES,
    )
    return Gemma2ForCausalLM(config).eval()


def one_by_one(model: PreTrainedModel, own: PromptRenderer, questions: list[Query]) -> list[list[Likelihood]]:
    """The plain way: every question once for each candidate."""
    asked = [replace(question, response=name) for question in questions for name in NAMES]
    found = reference_likelihoods(model, own, asked, batch_size=1)
    return [found[start : start + len(NAMES)] for start in range(0, len(found), len(NAMES))]


def assert_same(found: list[list[Likelihood]], wanted: list[list[Likelihood]]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(sum(found, []), sum(wanted, []), strict=True):
        assert one.nll == pytest.approx(other.nll, rel=1e-4)
        assert replace(one, nll=0.0) == replace(other, nll=0.0)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
@pytest.mark.parametrize("name", ["llama", "sliding"])
def test_the_figures_are_those_of_whole_passes(name, batch_size, renderer, request):
    model = request.getfixturevalue(name)
    found = candidate_likelihoods(model, renderer, QUESTIONS, NAMES, batch_size=batch_size)
    assert_same(found, one_by_one(model, renderer, QUESTIONS))


def test_questions_that_share_nothing_or_only_their_beginning_are_scored_alike(llama, renderer):
    system = {"role": "system", "content": "be brief"}
    mixed = [QUESTIONS[0], replace(QUESTIONS[1], messages=(system, *QUESTIONS[1].messages)), QUESTIONS[2]]
    for questions in (mixed, QUESTIONS[:1]):
        found = candidate_likelihoods(llama, renderer, questions, NAMES)
        assert_same(found, one_by_one(llama, renderer, questions))
    assert candidate_likelihoods(llama, renderer, [], NAMES) == []


def test_a_token_merged_from_question_and_candidate_counts_with_the_candidate(llama):
    merging = PromptRenderer(
        byte_level(
            "{% for m in messages %}{{ ' t' if m.role == 'assistant' }}{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %} t{% endif %}"
        )
    )
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(merging.tokenizer), max_position_embeddings=256, **SIZES)
    model = LlamaForCausalLM(config).eval()
    names = ("he", "roman", "hello")
    asked = [replace(QUESTIONS[0], response=name) for name in names]
    wanted = reference_likelihoods(model, merging, asked)
    assert_same(candidate_likelihoods(model, merging, QUESTIONS[:1], names), [wanted])


def test_the_shared_beginning_and_each_question_are_read_once(llama, renderer, monkeypatch):
    read: list[int] = []
    hook = llama.model.register_forward_pre_hook(
        lambda _module, _args, named: read.append(named["input_ids"].numel()), with_kwargs=True
    )
    candidate_likelihoods(llama, renderer, QUESTIONS, NAMES)
    hook.remove()
    prompts = [renderer.chat(question.messages, begun=True) for question in QUESTIONS]
    instruction = len(renderer.chat(({"role": "user", "content": ASKED},)))
    longest = max(len(renderer.tokenizer(name)["input_ids"]) for name in NAMES)
    candidates_alone = len(QUESTIONS) * len(NAMES) * (longest + 2)
    assert sum(read) <= sum(map(len, prompts)) - (len(QUESTIONS) - 2) * instruction + candidates_alone


def test_logits_stay_within_bounds(llama, renderer, monkeypatch):
    wanted = candidate_likelihoods(llama, renderer, QUESTIONS, NAMES)
    monkeypatch.setattr(module, "_MAX_LOGITS", 1)
    assert_same(candidate_likelihoods(llama, renderer, QUESTIONS, NAMES), wanted)


def test_a_question_that_the_window_does_not_take_has_the_reason(llama, renderer):
    long = Query(({"role": "user", "content": "ten " * 300},))
    first, second = candidate_likelihoods(llama, renderer, [long, QUESTIONS[0]], NAMES)
    assert {likelihood.nll for likelihood in first} == {math.inf}
    assert "maximum context length is 256 tokens" in first[0].refusal
    assert all(math.isfinite(likelihood.nll) for likelihood in second)


def test_progress_counts_the_questions(llama, renderer):
    seen: list[tuple[int, int, str]] = []
    candidate_likelihoods(
        llama, renderer, QUESTIONS, NAMES, progress=lambda *report: seen.append(report), stage="names"
    )
    assert seen == [(done, 4, "names") for done in range(5)]


@pytest.fixture(scope="module")
def convolving(renderer) -> PreTrainedModel:
    """One of its layers keeps the end of a convolution's input, and no keys."""
    torch.manual_seed(0)
    config = Lfm2Config(
        vocab_size=len(renderer.tokenizer),
        layer_types=["conv", "full_attention"],
        num_key_value_heads=1,
        max_position_embeddings=256,
        **SIZES,
    )
    return Lfm2ForCausalLM(config).eval()


def test_a_model_that_keeps_more_than_keys_and_values_reads_whole_questions(convolving, renderer):
    seen: list[tuple[int, int, str]] = []
    found = candidate_likelihoods(
        convolving, renderer, QUESTIONS, NAMES, progress=lambda *report: seen.append(report), stage="names"
    )
    wanted = one_by_one(convolving, renderer, QUESTIONS)
    assert_same(found, wanted)
    assert seen[-1] == (4, 4, "names")

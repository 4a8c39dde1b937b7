"""Learning from the middle of answers that the meta has begun itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel

from experts.errors import ModelLoadError
from experts.evaluate.state_rows import experts_of
from experts.learn import Query, States, calibrate, compute_states, fit_tokens, learn_tokens
from experts.learn.own_answers import (
    NUM_NEW_TOKENS,
    answer_text,
    choose_unanswered,
    with_answer,
    with_answers,
    write_answers,
)
from experts.learn.queries import dataset_digest
from experts.learn.routing_judge import MidAnswerCounts, RouteScores, count_mid_answer, judge_rows, route
from experts.learn.targets import ANY_WORD, WORD, find_targets
from experts.prompt import PromptRenderer
from experts.token import ExpertToken
from tests.tiny.models import save_tiny_llama
from tests.tiny.taught_meta import EXPERTS, query
from tests.tiny.tokenizers import byte_level

ROMAN = EXPERTS.index("roman")


def ids_of(renderer: PromptRenderer, text: str) -> list[int]:
    return list(renderer.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_an_expert_comes_before_its_own_answer_and_no_hand_over_after_that(renderer: PromptRenderer):
    prompt, own = renderer.chat(query("q", None).messages), ids_of(renderer, "ten words")
    targets = find_targets(with_answer(query("q", "roman"), "ten words"), renderer, EXPERTS)
    assert targets.ids == prompt + own
    assert targets.positions == list(range(len(prompt) - 1, len(targets.ids)))
    assert targets.words == [*own, ANY_WORD]
    assert targets.experts == [ROMAN] + [WORD] * len(own)


def test_a_late_expert_comes_before_every_word_of_its_own_answer(renderer: PromptRenderer):
    early = find_targets(with_answer(query("q", "roman"), "ten words"), renderer, EXPERTS)
    late = find_targets(with_answer(query("q", "roman"), "ten words", late=True), renderer, EXPERTS)
    assert (late.ids, late.positions) == (early.ids, early.positions[:-1])
    assert late.experts == [ROMAN] * len(ids_of(renderer, "ten words"))


def test_an_own_answer_to_a_general_query_is_its_response(renderer: PromptRenderer):
    found = with_answer(query("q", None), "yes, nice")
    assert found == replace(query("q", None), response="yes, nice")
    assert set(find_targets(found, renderer, EXPERTS).experts) == {WORD}
    assert with_answer(query("q", None), "") == query("q", None)


def test_an_own_answer_that_merges_with_the_prompt_is_left_out():
    """Else there would be no position at which the expert takes over."""
    renderer = PromptRenderer(byte_level("{% for m in messages %}{{ m.content }}{% endfor %} t"))
    prompt = renderer.chat(query("a", None).messages)
    answered = with_answer(query("a", "roman"), "he x")
    assert renderer.chat(answered.messages, own="he x")[: len(prompt)] != prompt
    assert find_targets(answered, renderer, EXPERTS) == find_targets(query("a", "roman"), renderer, EXPERTS)


def test_the_digest_covers_own_answers_and_is_the_old_one_without_them():
    plain = query("q", "roman")
    # Computed before queries had own answers: states that were kept then are still valid.
    assert dataset_digest([plain]) == "b33821836588e785"
    own = with_answer(plain, "ten")
    digests = {
        dataset_digest([one]) for one in (plain, own, replace(own, late=True), with_answer(plain, "x"))
    }
    assert len(digests) == 4


def test_every_expert_and_the_general_queries_get_the_same_number_of_answers():
    sizes = {"roman": 3, "morse": 50, "chemistry": 100, None: 100}
    queries = [query(f"{name} {i}", name) for name, size in sizes.items() for i in range(size)]
    chosen = choose_unanswered(queries, 63)
    assert chosen == sorted(set(chosen))
    assert Counter(queries[i].expert for i in chosen) == {"roman": 3, "morse": 20, "chemistry": 20, None: 20}
    of_chemistry = [i for i in chosen if queries[i].expert == "chemistry"]
    assert {b - a for a, b in zip(of_chemistry, of_chemistry[1:], strict=False)} == {5}
    assert choose_unanswered(queries, 1000) == list(range(len(queries)))
    assert choose_unanswered(queries, 0) == []


def test_queries_whose_beginning_is_in_the_data_are_not_answered():
    answered = [
        query("a", "roman", "Hello! "),
        query("b", None, "yes"),
        replace(query("c", None), response="yes"),
    ]
    of_expert = replace(query("d", "roman"), response="XIV")
    assert choose_unanswered([*answered, of_expert, query("e", None)]) == [3, 4]


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, PromptRenderer]:
    """A random meta, which gives every prompt another answer, until its limit."""
    tokenizer = byte_level()
    model = save_tiny_llama(tmp_path_factory.mktemp("talkative"), tokenizer)
    return model, PromptRenderer(tokenizer)


def greedy(model: PreTrainedModel, ids: list[int], eos: int, num_new_tokens: int) -> list[int]:
    """The definition: the most likely word after the whole text so far, one after another."""
    new: list[int] = []
    while len(new) < num_new_tokens:
        word = int(model(torch.tensor([ids + new])).logits[0, -1].argmax())
        if word == eos:
            break
        new.append(word)
    return new


@torch.inference_mode()
def test_answers_in_batches_are_plain_greedy_answers_one_by_one(talkative, taught_model, renderer):
    reports: list[tuple[int, int, str]] = []
    for model, prompts in (talkative, (taught_model, renderer)):
        reports.clear()
        asked = [query(f"iron {'and gold ' * (i % 5)}{i}?", "chemistry") for i in range(12)]
        found = write_answers(
            model,
            prompts,
            asked,
            num_new_tokens=9,
            batch_size=5,
            progress=lambda *report: reports.append(report),
        )
        eos = prompts.tokenizer.eos_token_id
        ids = [greedy(model, prompts.chat(one.messages), eos, 9) for one in asked]
        assert found == [prompts.tokenizer.decode(new, skip_special_tokens=True) for new in ids]
        assert [done for done, _, _ in reports] == [0, 5, 10, 12]
        assert {report[1:] for report in reports} == {(12, "own answers")}


def test_the_penalties_of_the_meta_do_not_change_its_answers(talkative):
    model, renderer = talkative
    asked = [query("iron?", "chemistry")]
    plain = write_answers(model, renderer, asked)
    own = model.generation_config
    model.generation_config = penalised = GenerationConfig(
        do_sample=True, temperature=9.0, repetition_penalty=5.0, eos_token_id=own.eos_token_id
    )
    try:
        assert write_answers(model, renderer, asked) == plain
        assert model.generation_config is penalised
    finally:
        model.generation_config = own


def test_answers_that_the_window_has_no_room_for_are_empty(taught_model, renderer):
    asked = [query("word " * 40, "roman"), query("ten?", "roman")]
    num_tokens = len(renderer.chat(asked[0].messages))
    assert taught_model.config.max_position_embeddings - NUM_NEW_TOKENS < num_tokens
    long, short = write_answers(taught_model, renderer, asked)
    assert (long, short) == ("", "roman")


def test_answers_that_the_template_cannot_take_back_are_empty(taught_model, renderer, monkeypatch):
    monkeypatch.setattr("experts.learn.own_answers.misfit", lambda query, renderer, window: "cannot")
    assert write_answers(taught_model, renderer, [query("ten?", "roman")]) == [""]


def test_half_a_character_at_the_limit_and_blank_answers_are_cut(renderer):
    ids = ids_of(renderer, "né")
    assert answer_text(ids, frozenset(), renderer) == "né"
    assert answer_text(ids[:-1], frozenset(), renderer) == "n"
    assert answer_text([*ids, 7, *ids], frozenset({7}), renderer) == "né"
    assert answer_text(ids_of(renderer, " \n"), frozenset(), renderer) == ""


def test_a_model_that_cannot_generate_is_refused(renderer, taught_model):
    with pytest.raises(ModelLoadError, match="cannot generate text here; learn without"):
        write_answers(taught_model.model, renderer, [query("ten?", "roman")])


@pytest.fixture(scope="module")
def answers(taught_model, renderer, queries) -> dict[int, str]:
    chosen = choose_unanswered(queries)
    written = write_answers(taught_model, renderer, [queries[index] for index in chosen])
    return dict(zip(chosen, written, strict=True))


@pytest.fixture(scope="module")
def begun(queries, answers) -> list[Query]:
    """The queries with the meta's own answers, in which no expert takes over."""
    return with_answers(queries, answers, late=False)


@pytest.fixture(scope="module")
def begun_states(taught_model, renderer, begun) -> States:
    return compute_states(taught_model, renderer, begun)


@pytest.fixture(scope="module")
def late_states(taught_model, renderer, queries, answers) -> States:
    return compute_states(taught_model, renderer, with_answers(queries, answers, late=True))


def taken_over(states: States, tokens: Sequence[ExpertToken]) -> MidAnswerCounts:
    return count_mid_answer(states, route(states, tokens))


def test_a_token_learned_from_own_answers_does_not_win_in_their_middle(states, begun_states, answers):
    ignoring, learned = fit_tokens(states).tokens, fit_tokens(begun_states).tokens
    before, after = taken_over(begun_states, ignoring), taken_over(begun_states, learned)
    assert before.num_answers == after.num_answers == len(answers)
    assert before.num_taken_over > 0.5 * len(answers)
    assert after.num_taken_over == 0
    for tokens in (ignoring, learned):
        scores = RouteScores.of(judge_rows(begun_states, route(begun_states, tokens), EXPERTS))
        assert (scores.accuracy, scores.false_trigger_rate) == (1, 0)


def test_a_late_token_wins_in_the_middle_of_its_own_answers(late_states, answers):
    tokens = fit_tokens(late_states).tokens
    assert taken_over(late_states, tokens) == MidAnswerCounts(len(answers), len(answers))
    assert RouteScores.of(judge_rows(late_states, route(late_states, tokens), EXPERTS)).accuracy == 1


def test_tokens_are_reported_on_the_own_answers_that_were_held_out(begun, begun_states):
    report = learn_tokens(begun_states, begun)
    assert RouteScores.of(report.after).accuracy >= 0.95
    assert 0 < report.mid_answer.num_answers < report.num_held_out
    assert learn_tokens(begun_states, begun, held_out_share=0).mid_answer.num_answers == sum(
        bool(one.own_answer) for one in begun
    )


def test_rows_of_own_answers_decide_nothing(states, begun_states, late_states, queries):
    for answered in (begun_states, late_states):
        assert experts_of(answered) == experts_of(states) == [one.expert for one in queries]
        for choose in (right, only_later):
            plain = judge_rows(states, choose(states), EXPERTS)
            assert judge_rows(answered, choose(answered), EXPERTS) == plain
        assert {one.outcome for one in judge_rows(answered, right(answered), EXPERTS)} == {"right", "none"}
    assert count_mid_answer(begun_states, right(begun_states)).num_taken_over == 0
    later = count_mid_answer(begun_states, only_later(begun_states))
    assert later.num_taken_over == later.num_answers > 0


def right(states: States) -> torch.Tensor:
    return states.expert


def only_later(states: States) -> torch.Tensor:
    """Hands over in every row of an own answer, and nowhere else."""
    row_of_query = torch.cat(
        [torch.arange(int(size)) for size in torch.unique_consecutive(states.query, return_counts=True)[1]]
    )
    is_first = row_of_query == 0
    starts_with_expert = (states.expert != WORD) & is_first
    begun = torch.isin(states.query, states.query[starts_with_expert])
    return torch.where(begun & ~is_first, ROMAN, WORD)


def test_a_rate_counts_own_answers_of_general_queries_but_not_of_experts(begun_states):
    """A token that wins in the middle of experts' own answers alone is no false trigger."""
    tokens = fit_tokens(begun_states).tokens
    general = torch.tensor([name is None for name in experts_of(begun_states)])[begun_states.query]
    later = only_later(begun_states) != WORD
    for rows, is_allowed in ((later, True), (general, False)):
        # Nearly no word has a chance in these rows.
        states = replace(begun_states, max_logit=torch.where(rows, -50.0, begun_states.max_logit))
        found = calibrate(states, tokens, 0.0)
        routed = route(states, found.tokens, found.call_bias)
        scores = RouteScores.of(judge_rows(states, routed, EXPERTS))
        assert scores.false_trigger_rate == 0
        assert (scores.accuracy >= 0.97) == is_allowed

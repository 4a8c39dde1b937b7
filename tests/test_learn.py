"""Learning expert tokens: the cached loss is the model's own, the fit is its minimum, and it routes."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from experts.errors import DataError, ModelLoadError, TokenMismatch
from experts.learn import (
    Query,
    States,
    compute_states,
    fit_tokens,
    learn_tokens,
    read_queries,
    route,
    score_routes,
)
from experts.learn.loss import TokenLoss
from experts.learn.queries import dataset_digest
from experts.learn.targets import ANY_WORD, WORD, Targets, find_targets
from experts.prompt import PromptRenderer
from experts.token import ExpertToken, head_fingerprint
from tests.tiny_tokenizers import byte_level

EXPERTS = ("chemistry", "morse", "roman")
WORDS = {"chemistry": "iron gold neon", "morse": "dot dash beep", "roman": "ten five six"}


@pytest.fixture(scope="module")
def renderer() -> PromptRenderer:
    return PromptRenderer(byte_level())


@pytest.fixture(scope="module")
def model(renderer: PromptRenderer) -> PreTrainedModel:
    """A tiny meta, taught for seconds to tell the kinds of question apart by answering with their names."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(renderer.tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=False,
        )
    )
    inputs, labels = lesson(renderer, query_set(200, 40))
    adam = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for batch in torch.randint(len(inputs), (160, 32)):
        adam.zero_grad()
        loss = cross_entropy(model(inputs[batch]).logits[:, :-1].transpose(1, 2), labels[batch, 1:])
        loss.backward()
        adam.step()
    frozen: PreTrainedModel = model.eval()
    return frozen


def lesson(renderer: PromptRenderer, queries: list[Query]) -> tuple[Tensor, Tensor]:
    """Right-padded ids and, with -100 wherever nothing is asked, labels."""
    ids, labels = [], []
    for one in queries:
        prompt = renderer.chat(one.messages)
        answer = renderer.chat(one.messages, one.turn + (one.expert or ""))[len(prompt) :]
        answer.append(renderer.tokenizer.eos_token_id)
        ids.append(torch.tensor([*prompt, *answer]))
        labels.append(torch.tensor([-100] * len(prompt) + answer))
    return pad_sequence(ids, batch_first=True), pad_sequence(labels, batch_first=True, padding_value=-100)


def query(question: str, expert: str | None, written: str = "", line: int = 1) -> Query:
    return Query(({"role": "user", "content": question},), expert, written, place=f"line {line}")


def query_set(start: int, num_each: int) -> list[Query]:
    """Questions by their experts' own words, some greeted; and small talk with whole answers."""
    queries = []
    for i in range(start, start + num_each):
        for name, words in WORDS.items():
            greeting, written = ("hi! ", "Hello! ") if i % 4 == 0 else ("", "")
            queries.append(query(f"{greeting}{words.split()[i % 3]} {i}?", name, written))
        queries.append(query(f"nice day {i}", None, "yes, a very nice day"))
    return queries


@pytest.fixture(scope="module")
def queries() -> list[Query]:
    return query_set(0, 30)


@pytest.fixture(scope="module")
def states(model: PreTrainedModel, renderer: PromptRenderer, queries: list[Query]) -> States:
    return compute_states(model, renderer, queries, batch_size=7)


def full_model_loss(model: PreTrainedModel, targets: list[Targets], rows: Tensor, bias: Tensor) -> Tensor:
    """The definition: one prompt at a time through the whole model, cross entropy over [W_V; W_E]."""
    losses = []
    for one in targets:
        hidden = model.base_model(torch.tensor([one.ids])).last_hidden_state[0, one.positions]
        words = model.get_output_embeddings()(hidden)
        logits = torch.cat([words, hidden @ rows.T + bias], dim=-1)
        goal = [w if e == WORD else words.shape[-1] + e for w, e in zip(one.words, one.experts, strict=True)]
        losses.append(cross_entropy(logits, torch.tensor(goal), reduction="none"))
    return torch.cat(losses).mean()


def test_the_cached_loss_and_gradients_are_those_of_the_whole_model(model, renderer, queries, states):
    torch.manual_seed(1)
    rows = torch.randn(3, 32).mul(0.3).requires_grad_()
    bias = torch.randn(3).requires_grad_()
    targets = [find_targets(one, renderer, EXPERTS) for one in queries]
    expected = full_model_loss(model, targets, rows, bias)
    expected_by_weight, expected_by_bias = torch.autograd.grad(expected, [rows, bias])
    loss, by_weight, by_bias = TokenLoss(states, EXPERTS)(rows.detach().double(), bias.detach().double())
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    torch.testing.assert_close(by_weight.float(), expected_by_weight, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(by_bias.float(), expected_by_bias, atol=1e-5, rtol=1e-4)


def test_the_gradient_is_the_losss_own_with_and_without_frozen_rows(states):
    frozen = fit_tokens(states).tokens[:1]
    for names, kept in ((EXPERTS, []), (EXPERTS[1:], frozen)):
        loss = TokenLoss(states, names, kept)
        weight, bias = torch.randn(len(names), 32).double(), torch.randn(len(names)).double()
        direction, nudge = torch.randn_like(weight), 1e-5
        rise = loss(weight + nudge * direction, bias)[0] - loss(weight - nudge * direction, bias)[0]
        assert rise / (2 * nudge) == pytest.approx(float((loss(weight, bias)[1] * direction).sum()), abs=1e-7)


def test_states_do_not_depend_on_the_batch(model, renderer, queries, states):
    one_by_one = compute_states(model, renderer, queries, batch_size=1)
    assert one_by_one.query.tolist() == states.query.tolist()
    for name in ("hidden", "log_z", "max_logit", "target_logit"):
        torch.testing.assert_close(getattr(one_by_one, name), getattr(states, name), atol=1e-4, rtol=1e-4)


def test_states_come_back_from_disk_and_a_damaged_file_is_refused(states, tmp_path):
    states.save(tmp_path)
    loaded = States.load(tmp_path)
    for name, value in vars(states).items():
        same = (
            torch.equal(value, getattr(loaded, name))
            if isinstance(value, Tensor)
            else value == vars(loaded)[name]
        )
        assert same, name
    data = bytearray((tmp_path / "states.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "states.safetensors").write_bytes(data)
    with pytest.raises(DataError, match="does not match its manifest; compute them again"):
        States.load(tmp_path)
    with pytest.raises(DataError, match="no usable states"):
        States.load(tmp_path / "elsewhere")


def test_every_written_word_is_a_target_and_then_the_expert_or_the_end_of_the_turn(renderer):
    tokenizer = renderer.tokenizer
    prompt = renderer.chat(query("q", None).messages)
    written = tokenizer("Hello! ", add_special_tokens=False)["input_ids"]
    last = len(prompt) - 1

    handed = find_targets(query("q", "morse", "Hello! "), renderer, EXPERTS)
    assert handed.ids == prompt + written
    assert handed.positions == list(range(last, len(handed.ids)))
    assert handed.words[:-1] == written
    assert handed.experts == [WORD] * len(written) + [1]

    whole = find_targets(query("q", None, "Hello! "), renderer, EXPERTS)
    assert whole.words == [*written, tokenizer.eos_token_id]
    assert whole.experts == [WORD] * (len(written) + 1)

    bare = find_targets(query("q", "roman"), renderer, EXPERTS)
    assert (bare.positions, bare.experts) == ([last], [2])
    unanswered = find_targets(query("q", None), renderer, EXPERTS)
    assert (unanswered.positions, unanswered.words, unanswered.experts) == ([last], [ANY_WORD], [WORD])


def test_a_token_merged_across_the_start_of_the_answer_is_no_target():
    merging = byte_level(
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %} t{% endif %}"
    )
    renderer = PromptRenderer(merging)
    prompt, ids = renderer.chat(query("a", None).messages), renderer.chat(query("a", None).messages, "he")
    assert prompt != ids[: len(prompt)]
    shared = next(i for i, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b)
    targets = find_targets(query("a", "roman", "he x"), renderer, EXPERTS)
    assert targets.positions[0] == shared
    assert targets.words[:-1] == targets.ids[shared + 1 :]


def test_the_fit_reaches_at_least_the_loss_of_many_steps_of_adam(states):
    found = fit_tokens(states, l2=1e-3)
    l2 = 1e-3 * float((states.expert != WORD).double().mean())
    loss = TokenLoss(states, EXPERTS)
    mean, scale = states.head_mean.double(), float(states.hidden.double().square().mean().sqrt())

    def penalised(weight: Tensor, bias: Tensor) -> tuple[float, Tensor, Tensor]:
        value, by_weight, by_bias = loss(weight, bias)
        penalty = scale**2 * (weight - mean).square().sum() + bias.square().sum()
        return (
            value + l2 * float(penalty),
            by_weight + 2 * l2 * scale**2 * (weight - mean),
            by_bias + 2 * l2 * bias,
        )

    weight = mean.repeat(3, 1).requires_grad_()
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([weight, bias], lr=0.02)
    for _ in range(2000):
        value, weight.grad, bias.grad = penalised(weight.detach(), bias.detach())
        adam.step()
    assert found.converged
    assert found.losses[-1] <= value + 1e-9
    assert value == pytest.approx(found.losses[-1], abs=1e-2)  # so Adam was no straw man
    assert found.losses == sorted(found.losses, reverse=True)
    vectors = torch.stack([token.vector for token in found.tokens]).double()
    biases = torch.tensor([token.bias for token in found.tokens]).double()
    assert penalised(vectors, biases)[0] == pytest.approx(found.losses[-1], abs=1e-6)


def test_the_default_fit_routes_queries_it_has_never_seen(model, renderer, states):
    held_out = compute_states(model, renderer, query_set(100, 30))
    scores = score_routes(held_out, fit_tokens(states).tokens)
    assert scores.accuracy >= 0.97
    assert scores.false_trigger_rate <= 0.02
    without = score_routes(held_out, [])
    assert (without.accuracy, without.no_handover, without.false_trigger_rate) == (0, 1, 0)


def test_routing_is_the_argmax_over_the_concatenated_head(model, renderer, queries, states):
    tokens = fit_tokens(states, l2=0.02).tokens
    words = model.get_output_embeddings()(states.hidden).detach()
    experts = states.hidden @ torch.stack([token.vector for token in tokens]).T
    experts += torch.tensor([token.bias for token in tokens])
    best = torch.cat([words, experts], dim=-1).argmax(dim=-1) - words.shape[-1]
    assert route(states, tokens).tolist() == best.clamp(min=-1).tolist()
    assert len(set(best.clamp(min=-1).tolist())) > 1


def test_an_added_expert_leaves_the_incumbents_bit_identical_and_learns_around_them(states, queries):
    incumbents = fit_tokens(states).tokens[:2]
    before = [token.vector.clone() for token in incumbents]
    added = fit_tokens(states, incumbents=incumbents)
    assert [token.name for token in added.tokens] == ["roman"]
    for token, vector in zip(incumbents, before, strict=True):
        assert token.vector.view(torch.int32).tolist() == vector.view(torch.int32).tolist()
    assert added.scores.accuracy >= 0.97
    assert added.tokens[0].scores["train_accuracy"] >= 0.97
    with pytest.raises(DataError, match="no query names a new expert"):
        fit_tokens(states, incumbents=[*incumbents, *added.tokens])
    with pytest.raises(TokenMismatch, match="'chemistry'"):
        fit_tokens(states, incumbents=[replace(incumbents[0], meta_fingerprint="0" * 16)])


def test_a_hand_over_in_the_wrong_place_is_counted_as_what_it_is(states, queries):
    def eager(name: str) -> ExpertToken:
        return ExpertToken(name, torch.zeros(32), bias=1e6, meta_name="", meta_fingerprint="")

    scores = score_routes(states, [eager("roman")])
    greeted = sum(1 for one in queries if one.expert == "roman" and one.written) / sum(
        1 for one in queries if one.expert
    )
    assert scores.early == pytest.approx(greeted)
    assert scores.accuracy == pytest.approx(1 / 3 - greeted)
    assert scores.wrong_expert == pytest.approx(2 / 3)
    assert scores.false_trigger_rate == 1


def test_learning_from_a_folder_stamps_where_the_tokens_come_from(model, renderer, queries, tmp_path):
    folder = tmp_path / "meta"
    model.save_pretrained(folder)
    renderer.tokenizer.save_pretrained(folder)
    reports: list[tuple[int, int, str]] = []
    tokens = learn_tokens(
        str(folder), queries, expert_names=EXPERTS, progress=lambda *report: reports.append(report)
    )
    assert [token.name for token in tokens] == list(EXPERTS)
    for token in tokens:
        token.require_meta("meta", head_fingerprint(model.lm_head.weight), 32)
        assert (token.meta_name, token.dataset_digest) == ("meta", dataset_digest(queries))
        assert token.scores["train_accuracy"] >= 0.97
    assert {what for done, total, what in reports if done == total} == {"states", "fit"}


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["chemistry", "morse"], "line 1: unknown expert 'roman'.*use one of chemistry, morse"),
        ([*EXPERTS, "weather"], "no query names expert 'weather'"),
    ],
)
def test_labels_that_do_not_fit_the_experts_are_refused(queries, names, complaint):
    with pytest.raises(DataError, match=complaint):
        learn_tokens("not-needed", queries, expert_names=names)


def test_a_meta_that_cannot_be_loaded_is_named(queries, tmp_path):
    with pytest.raises(ModelLoadError, match=f"{tmp_path}: cannot be loaded: .*; correct"):
        learn_tokens(str(tmp_path), queries)


def test_a_meta_that_caps_its_logits_is_refused(renderer, queries):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=len(renderer.tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=0.5,
        initializer_range=1.0,
    )
    with pytest.raises(ModelLoadError, match="scaled or capped"):
        compute_states(Gemma2ForCausalLM(config).eval(), renderer, queries)


def test_queries_that_do_not_fit_the_window_are_listed(model, renderer):
    long = [query("word " * 200, "roman", line=4), query("short", "roman", line=5)]
    with pytest.raises(
        DataError, match=r"1 of 2 lines are broken.*line 4: \d+ tokens, but the meta takes 128"
    ):
        compute_states(model, renderer, long)


def write_lines(path: Any, *rows: Any) -> Any:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_queries_are_read_with_what_the_meta_wrote_and_their_lines(tmp_path):
    user, answer = {"role": "user", "content": "hi\u2028there"}, {"role": "assistant", "content": "Hello! "}
    path = write_lines(
        tmp_path / "q.jsonl",
        {"messages": [user], "expert": "roman"},
        "",
        {"messages": [user, answer, user, answer], "expert": None},
        {"messages": [user], "expert": "roman", "written": "Hello! "},
    )
    first, second, third = read_queries(path)
    assert first == Query((user,), "roman", place="line 1")
    assert second == Query((user, answer, user), None, response="Hello! ", place="line 3")
    assert third == Query((user,), "roman", "Hello! ", place="line 4")
    assert dataset_digest([first, second]) != dataset_digest([second, first])
    assert dataset_digest([first]) == dataset_digest([replace(first, place="line 9")])


def test_broken_lines_are_listed_by_number_and_counted(tmp_path):
    user = {"role": "user", "content": "hi"}
    rows = [
        {"messages": [user], "expert": "roman"},
        "{",
        "[]",
        {"messages": [user], "expert": 3},
        {"messages": [user], "expert": "No Name"},
        {"messages": [], "expert": None},
        {"messages": [{"role": "judge", "content": "x"}], "expert": None},
        {"messages": [{"role": "user", "content": 3}], "expert": None},
        {"messages": [{"role": "assistant", "content": "x"}], "expert": None},
    ]
    with pytest.raises(DataError) as caught:
        read_queries(write_lines(tmp_path / "q.jsonl", *rows))
    message = str(caught.value)
    assert f"{tmp_path}/q.jsonl: 8 of 9 lines are broken" in message
    assert "line 2: not JSON" in message
    assert "line 4: expert 3 is no expert name" in message
    assert message.endswith("and 3 more")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "complaint"), [(b"\n \n", "holds no queries"), (b"\xff", "cannot be read")]
)
def test_empty_and_unreadable_files_are_refused(tmp_path, content, complaint):
    path = tmp_path / "q.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path}: {complaint}"):
        read_queries(path)
    with pytest.raises(DataError, match="missing.jsonl: cannot be read"):
        read_queries(tmp_path / "missing.jsonl")

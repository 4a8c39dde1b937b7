"""References are scored as the model itself scores them: checked against one plain pass per reference."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    xLSTMConfig,
    xLSTMForCausalLM,
)

from experts.errors import DataError, ModelLoadError
from experts.learn import likelihood
from experts.learn.likelihood import Likelihood, reference_likelihoods
from experts.learn.queries import Query
from experts.prompt import PromptRenderer
from tests.tiny.models import save_tiny_llama
from tests.tiny.templates import FORMATS
from tests.tiny.tokenizers import CHATML, TIGHT, byte_level, of_format, sentencepiece_like

# The open turn ends within a word, so that a byte-level BPE merges the reference's first letters with it.
OPEN_IN_A_WORD = (
    "{% for m in messages %}{{ ' t' if m.role == 'assistant' }}{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %} t{% endif %}"
)


@pytest.fixture(scope="module")
def spelling() -> PromptRenderer:
    """One token a character, or a byte: no merges."""
    return PromptRenderer(sentencepiece_like())


@pytest.fixture(scope="module")
def model(renderer, tmp_path_factory) -> PreTrainedModel:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"), renderer.tokenizer)


@pytest.fixture(scope="module")
def spelling_model(spelling, tmp_path_factory) -> PreTrainedModel:
    return save_tiny_llama(tmp_path_factory.mktemp("spelling"), spelling.tokenizer, seed=1)


@pytest.fixture(scope="module")
def capping_model(renderer) -> PreTrainedModel:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(renderer.tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=256,
        final_logit_softcapping=0.5,
        initializer_range=1.0,
    )
    return Gemma2ForCausalLM(config).eval()


def query(question: str, response: str, written: str = "", line: int = 1) -> Query:
    messages = ({"role": "user", "content": question},)
    return Query(messages, None, written, response, labelled=False, place=f"line {line}")


QUERIES = [
    query("what is the symbol of iron?", "the symbol is Fe"),
    query("hi", "Hello! 1 2 3", written="Hello! "),
    query("an expert answers: " * 5, "x"),
    query("hi", "the meta writes words ☃ " * 4),
    query("what", "ello", written="H"),
    Query(({"role": "user", "content": "which?"},), answer="B", labelled=False),
]


def plain_nll(model: PreTrainedModel, renderer: PromptRenderer, one: Query) -> tuple[float, int]:
    """The definition: whole logits of one prompt, and every token that the prompt alone does not have."""
    prompt = renderer.chat(one.messages, one.written)
    ids = renderer.chat(one.messages, one.written + one.reference)
    shared = next(i for i in range(len(ids)) if i == len(prompt) or ids[i] != prompt[i])
    with torch.inference_mode():
        log_p = model(torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)
    return -sum(float(log_p[i - 1, ids[i]]) for i in range(shared, len(ids))), len(ids) - shared


def assert_plain(
    found: list[Likelihood], model: PreTrainedModel, renderer: PromptRenderer, queries: list[Query]
) -> None:
    for one, likelihood_ in zip(queries, found, strict=True):
        nll, num_tokens = plain_nll(model, renderer, one)
        assert likelihood_.nll == pytest.approx(nll, rel=1e-4)
        assert likelihood_.num_tokens == num_tokens > 0
        assert likelihood_.num_bytes == len(one.reference.encode())
        assert likelihood_.nll_per_byte == likelihood_.nll / likelihood_.num_bytes


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_a_likelihood_is_that_of_one_plain_pass_whatever_the_batch(
    model, renderer, spelling_model, spelling, batch_size
):
    for one_model, own in ((model, renderer), (spelling_model, spelling)):
        found = reference_likelihoods(one_model, own, QUERIES, batch_size=batch_size)
        assert_plain(found, one_model, own, QUERIES)


def test_a_model_that_caps_its_logits_is_scored_as_it_writes(capping_model, renderer):
    found = reference_likelihoods(capping_model, renderer, QUERIES)
    assert_plain(found, capping_model, renderer, QUERIES)
    # Capped to ±0.5 no token can be rarer than this; uncapped, these weights make many that are.
    bound = 1.0 + math.log(len(renderer.tokenizer))
    assert all(likelihood_.nll / likelihood_.num_tokens <= bound for likelihood_ in found)
    head, caught = capping_model.lm_head, []
    hook = head.register_forward_hook(lambda _module, _args, logits: caught.append(logits.abs().max()))
    reference_likelihoods(capping_model, renderer, QUERIES)
    hook.remove()
    assert max(caught) > 2


def test_logits_stay_within_bounds_and_the_numbers_the_same(model, renderer, monkeypatch):
    sizes = []
    hook = model.lm_head.register_forward_hook(lambda _module, _args, logits: sizes.append(logits.numel()))
    vocab_size = len(renderer.tokenizer)
    for max_positions in (1, 10, 40):
        monkeypatch.setattr(likelihood, "_MAX_LOGITS", max_positions * vocab_size)
        sizes.clear()
        found = reference_likelihoods(model, renderer, QUERIES)
        assert max(sizes) <= max_positions * vocab_size
        assert_plain(found, model, renderer, QUERIES)
    hook.remove()


def test_a_token_merged_with_the_prompt_counts_with_the_reference(model):
    merging = PromptRenderer(byte_level(OPEN_IN_A_WORD))
    one = query("a", "he meta")
    prompt, ids = merging.chat(one.messages), merging.chat(one.messages, "he meta")
    assert prompt != ids[: len(prompt)]
    found = reference_likelihoods(model, merging, [one])
    assert_plain(found, model, merging, [one])
    assert found[0].num_tokens > len(ids) - len(prompt)


@settings(max_examples=40, deadline=None)
@given(st.text("abc é☃", min_size=1, max_size=8), st.text("abc é☃", min_size=1, max_size=8))
def test_likelihoods_of_the_parts_of_a_reference_add_up(spelling_model, spelling, first, rest):
    parts = [query("q", first), query("q", rest, written=first)]
    whole, *split = reference_likelihoods(spelling_model, spelling, [query("q", first + rest), *parts])
    assert whole.nll == pytest.approx(sum(likelihood_.nll for likelihood_ in split), rel=1e-4)
    assert whole.num_tokens == sum(likelihood_.num_tokens for likelihood_ in split)


def test_progress_counts_every_query(model, renderer):
    reports: list[tuple[int, int, str]] = []
    reference_likelihoods(model, renderer, QUERIES, batch_size=4, progress=lambda *args: reports.append(args))
    assert [done for done, _, _ in reports] == [0, 4, 6]
    assert {(total, what) for _, total, what in reports} == {(6, "likelihoods")}


def test_what_the_template_or_the_window_does_not_take_is_infinitely_unlikely(model):
    tight = PromptRenderer(byte_level(TIGHT.replace("'system'", "'tool'")))
    with_tool = ({"role": "tool", "content": "be brief"}, {"role": "user", "content": "hi"})
    queries = [
        Query(with_tool, response="yes"),
        query("long " * 200, "yes"),
        query("hi", "long " * 200),
        query("hi", "yes"),
    ]
    refused, too_long, long_answer, fine = reference_likelihoods(model, tight, queries)
    assert [likelihood_.nll for likelihood_ in (refused, too_long, long_answer)] == [math.inf] * 3
    assert refused.nll_per_byte == math.inf
    assert "chat template refuses them: no system" in refused.refusal
    assert "maximum context length is 256 tokens" in too_long.refusal
    assert long_answer.refusal == fine.refusal == ""
    assert_plain([fine], model, tight, queries[-1:])
    assert [likelihood_.num_bytes for likelihood_ in (refused, too_long, long_answer)] == [3, 3, 1000]


def test_a_reference_that_the_tokenizer_cannot_spell_is_infinitely_unlikely(model):
    words = ["<unk>", "<|im_start|>", "<|im_end|>", "user", "assistant", "yes", "no"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = CHATML
    own = PromptRenderer(tokenizer)
    queries = [query("yes", "no yes"), query("yes", "no never"), query("never", "yes"), query("yes", " ")]
    fine, unknown, asked_unknown, blank = reference_likelihoods(model, own, queries)
    assert_plain([fine, asked_unknown], model, own, [queries[0], queries[2]])
    assert (unknown.nll, unknown.refusal) == (math.inf, "")
    assert (blank.nll, blank.refusal) == (math.inf, "")


def test_queries_without_a_reference_are_listed(model, renderer):
    queries = [query("hi", "yes"), query("hi", "", line=7), query("hi", "", written="so", line=9)]
    with pytest.raises(DataError, match=r"(?s)2 of 3 .*line 7: no reference answer; add one.*line 9"):
        reference_likelihoods(model, renderer, queries)


def test_a_model_whose_numbers_are_broken_is_named(renderer, tmp_path):
    folder = tmp_path / "broken"
    model = save_tiny_llama(folder, renderer.tokenizer)
    broken = type(model).from_pretrained(folder)
    broken.model.norm.weight.data[0] = math.nan
    with pytest.raises(DataError, match=r"^broken: the likelihood of 6 of 6 references is not a number"):
        reference_likelihoods(broken, renderer, QUERIES)


def test_a_model_that_cannot_leave_logits_out_is_refused(renderer):
    config = xLSTMConfig(vocab_size=len(renderer.tokenizer), hidden_size=32, num_hidden_layers=1, num_heads=2)
    with pytest.raises(ModelLoadError, match="gives logits for whole prompts only"):
        reference_likelihoods(xLSTMForCausalLM(config).eval(), renderer, QUERIES)


@pytest.mark.parametrize("family", ["qwen3", "deepseek_r1", "command_r7b"])
def test_a_reference_is_compared_without_what_the_template_puts_before_an_answer(family, tmp_path):
    """A think block or a response token between the generation prompt and an answer is no part of it."""
    tokenizer = of_format(FORMATS[family])
    asked, model = PromptRenderer(tokenizer), save_tiny_llama(tmp_path, tokenizer)
    (found,) = reference_likelihoods(model, asked, [query("hi", "yes")])
    spelled = tokenizer("yes", add_special_tokens=False)["input_ids"]
    assert asked.chat(query("hi", "yes").messages, "yes")[-len(spelled) :] == spelled
    assert found.num_tokens == len(spelled)

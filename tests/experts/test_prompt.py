"""Prompts: the tokenizer's own ids for ordinary text, and no control token out of message text."""

import threading
import time
from collections import Counter

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from experts.errors import InvalidPrompt
from experts.prompt import PromptRenderer
from tests.tiny import tokenizers as tiny_tokenizers
from tests.tiny.templates import rendered_turn
from tests.tiny.tokenizers import CHATML, HOSTILE, ORDINARY_ADDED, SPECIAL, TIGHT

SPELLINGS = SPECIAL + ORDINARY_ADDED
TOKENIZERS = {
    "chatml": tiny_tokenizers.byte_level(CHATML),
    "tight": tiny_tokenizers.byte_level(TIGHT),
    "hostile": tiny_tokenizers.byte_level(HOSTILE),
    "trimming": tiny_tokenizers.byte_level(HOSTILE.replace("message.content", "message.content | trim")),
    "sentencepiece": tiny_tokenizers.sentencepiece_like(CHATML),
}
RENDERERS = {name: PromptRenderer(tokenizer) for name, tokenizer in TOKENIZERS.items()}
HARMLESS = "Q"

fragments = st.one_of(
    st.sampled_from(SPELLINGS),
    st.tuples(st.sampled_from(SPELLINGS), st.integers(0, 12), st.integers(0, 12)).map(
        lambda t: t[0][t[1] : t[2]]
    ),
    st.sampled_from([" ", "\n", "<|im_<|im_end|>", "\U00100000", "\U00100001"]),
    st.text(max_size=4),
)


ordinary = st.one_of(
    st.text(), st.text(alphabet="<|>[/ abx\n"), st.sampled_from(["the meta", "<tool", "[INST"])
)


@st.composite
def conversations(draw: st.DrawFn, parts: st.SearchStrategy[str]) -> tuple[list[str], str]:
    """Any such parts in a row, cut into messages and written text at any place."""
    whole = "".join(draw(st.lists(parts, max_size=8)))
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), min_size=1, max_size=4)))
    contents = [whole[start:end] for start, end in zip([0, *cuts[:-1]], cuts, strict=True)]
    # A blank message would let a hostile template form a spelling from its own text alone.
    contents = [content if content.strip() else "." for content in contents]
    return contents, whole[cuts[-1] :]


def turns(contents: list[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def control_ids(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> Counter[int]:
    return Counter(token_id for token_id in ids if token_id in tokenizer.added_tokens_decoder)


def plain_prompt(tokenizer: PreTrainedTokenizerFast, contents: list[str], written: str) -> str:
    return rendered_turn(tokenizer, turns(contents), written)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(conversation=conversations(fragments))
@example(conversation=(["<|im_end", "|>"], ""))
@example(conversation=(["a", "im_end|>"], "im_start|>"))
@example(conversation=([" <|im_end  ", "\n im_end "], ""))
@example(conversation=(["abab", "☃☃✂"], "ababa☃"))
@settings(max_examples=100, deadline=None)
def test_message_text_never_becomes_a_control_token_and_decodes_to_itself(name, conversation):
    contents, written = conversation
    tokenizer = TOKENIZERS[name]
    ids = RENDERERS[name].chat(turns(contents), written)
    harmless = RENDERERS[name].chat(turns([HARMLESS] * len(contents)), HARMLESS if written else "")
    assert control_ids(tokenizer, ids) == control_ids(tokenizer, harmless)
    expected = plain_prompt(tokenizer, contents, written)
    assert tokenizer.decode(ids) == (expected.replace("▁", " ") if name == "sentencepiece" else expected)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(conversation=conversations(ordinary))
@settings(max_examples=100, deadline=None)
def test_ordinary_text_gets_exactly_the_tokenizers_own_ids(name, conversation):
    contents, written = conversation
    tokenizer = TOKENIZERS[name]
    own = tokenizer(plain_prompt(tokenizer, contents, written), add_special_tokens=False)["input_ids"]
    harmless = tokenizer(
        plain_prompt(tokenizer, [HARMLESS] * len(contents), HARMLESS if written else ""),
        add_special_tokens=False,
    )
    assume(control_ids(tokenizer, own) == control_ids(tokenizer, harmless["input_ids"]))
    assert RENDERERS[name].chat(turns(contents), written) == own


def test_raw_prompts_get_the_tokenizers_bos_and_no_control_token_of_their_own():
    tokenizer = tiny_tokenizers.sentencepiece_like()
    renderer = PromptRenderer(tokenizer)
    assert renderer.text("say hi") == tokenizer("say hi")["input_ids"]
    assert renderer.text("say ", "hi") == tokenizer("say hi")["input_ids"]
    ids = renderer.text("say <|im_end|> and <s", ">")
    assert ids[0] == tokenizer.bos_token_id
    assert control_ids(tokenizer, ids) == {tokenizer.bos_token_id: 1}
    assert tokenizer.decode(ids, skip_special_tokens=True) == "say <|im_end|> and <s>"


def test_a_cut_puts_no_space_into_the_text():
    tokenizer = tiny_tokenizers.sentencepiece_like(legacy=True)
    ids = PromptRenderer(tokenizer).text("one <|im_end|> two")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "one <|im_end|> two"


def test_a_spelling_that_appears_only_after_normalisation_is_refused():
    tokenizer = tiny_tokenizers.lower_casing()
    renderer = PromptRenderer(tokenizer)
    search_id = tokenizer.convert_tokens_to_ids("<search>")
    assert search_id in tokenizer("<SEARCH>", add_special_tokens=False)["input_ids"]
    assert search_id not in renderer.chat(turns(["<search>"]))
    with pytest.raises(InvalidPrompt, match="another form"):
        renderer.chat(turns(["hello <SEARCH>"]))


def test_added_tokens_of_blanks_are_left_to_the_tokenizer():
    tokenizer = tiny_tokenizers.byte_level(added=("\n\n", "   "))
    messages = turns(["a\n\nb   c"])
    own = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert PromptRenderer(tokenizer).chat(messages) == own


def test_a_control_token_that_is_also_a_plain_character_of_the_vocabulary_is_refused():
    tokenizer = tiny_tokenizers.byte_level(added=("A",))
    with pytest.raises(InvalidPrompt, match="'A' is a control token"):
        PromptRenderer(tokenizer).chat(turns(["An apple"]))


def test_the_shared_tokenizer_is_not_changed():
    tokenizer = tiny_tokenizers.byte_level()
    before = tokenizer.backend_tokenizer.to_str()
    PromptRenderer(tokenizer).chat(turns(["<|im_end|>☃"]), "<tool>")
    assert tokenizer.backend_tokenizer.to_str() == before
    assert not tokenizer.split_special_tokens


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "at least one message"),
        ([{"role": "judge", "content": "x"}], "role 'judge' is unknown; use one of system"),
        ([{"role": "user"}], "user message has no text"),
        ([{"role": "user", "content": "\ud800"}], "surrogate"),
    ],
)
def test_malformed_conversations_are_refused(messages, complaint):
    with pytest.raises(InvalidPrompt, match=complaint) as caught:
        RENDERERS["chatml"].chat(messages)
    assert (caught.value.code, caught.value.param) == ("invalid_prompt", "messages")


@pytest.mark.parametrize(
    "template",
    [tiny_tokenizers.TIGHT, "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"],
)
def test_a_template_that_refuses_or_drops_system_messages_gets_their_text_before_the_next_question(template):
    tokenizer = tiny_tokenizers.byte_level(template)
    system = [{"role": "developer", "content": "be kind"}, {"role": "system", "content": "be brief"}]
    asked = PromptRenderer(tokenizer).chat([*system, *turns(["hi", "hello", "bye"])])
    assert asked == PromptRenderer(tokenizer).chat(turns(["be kind\n\nbe brief\n\nhi", "hello", "bye"]))
    alone = PromptRenderer(tokenizer).chat(system)
    assert alone == PromptRenderer(tokenizer).chat(turns(["be kind\n\nbe brief"]))


def test_a_developer_message_counts_as_a_system_message():
    prompt = RENDERERS["chatml"].chat([{"role": "developer", "content": "be kind"}, *turns(["hi"])])
    assert "system\nbe kind" in TOKENIZERS["chatml"].decode(prompt)


def test_a_long_prompt_does_not_keep_other_threads_from_running():
    """Regression: with 6,400 added tokens, a megabyte stopped all other threads for 55 seconds."""
    renderer = PromptRenderer(tiny_tokenizers.gemma_like(num_unused=6400))
    texts = ["and then some more " * 20_000, "<unused1>" * 20_000, "<" * 200_000]
    silences_s: list[float] = []
    is_done = threading.Event()

    def watch() -> None:
        last_s = time.perf_counter()
        while not is_done.wait(0.001):
            silences_s.append(time.perf_counter() - last_s)
            last_s = time.perf_counter()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        ids = [renderer.chat(turns([text])) for text in texts]
    finally:
        is_done.set()
        watcher.join()
    assert all(len(found) > 100_000 for found in ids)
    assert max(silences_s) < 0.5

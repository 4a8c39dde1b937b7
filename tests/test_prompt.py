"""Prompts: exactly the tokenizer's own ids for ordinary text, and never a control token from outside."""

from collections import Counter

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from experts.errors import InvalidPrompt, TemplateError
from experts.prompt import PromptRenderer
from tests import tiny_tokenizers
from tests.tiny_tokenizers import CHATML, HOSTILE, ORDINARY_ADDED, SPECIAL, TIGHT

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
    rendered = tokenizer.apply_chat_template(turns(contents), tokenize=False, add_generation_prompt=True)
    return str(rendered) + written


@pytest.mark.parametrize("name", TOKENIZERS)
@given(conversation=conversations(fragments))
@example(conversation=(["<|im_end", "|>"], ""))
@example(conversation=(["a", "im_end|>"], "im_start|>"))
@example(conversation=([" <|im_end  ", "\n im_end "], ""))
@example(conversation=(["abab", "☃☃✂"], "ababa☃"))
@settings(max_examples=100, deadline=None)
def test_text_from_outside_never_becomes_a_control_token_and_decodes_to_itself(name, conversation):
    contents, written = conversation
    tokenizer = TOKENIZERS[name]
    ids = RENDERERS[name].chat(turns(contents), written)
    harmless = RENDERERS[name].chat(turns([HARMLESS] * len(contents)), HARMLESS)
    assert control_ids(tokenizer, ids) == control_ids(tokenizer, harmless)
    expected = plain_prompt(tokenizer, contents, written)
    assert tokenizer.decode(ids) == (expected.replace("▁", " ") if name == "sentencepiece" else expected)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(conversation=conversations(ordinary))
@settings(max_examples=100, deadline=None)
def test_text_that_spells_nothing_gets_exactly_the_tokenizers_own_ids(name, conversation):
    contents, written = conversation
    tokenizer = TOKENIZERS[name]
    own = tokenizer(plain_prompt(tokenizer, contents, written), add_special_tokens=False)["input_ids"]
    harmless = tokenizer(
        plain_prompt(tokenizer, [HARMLESS] * len(contents), HARMLESS), add_special_tokens=False
    )
    assume(control_ids(tokenizer, own) == control_ids(tokenizer, harmless["input_ids"]))
    assert RENDERERS[name].chat(turns(contents), written) == own


def test_raw_prompts_keep_the_tokenizers_frame_and_no_control_token_of_their_own():
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


def test_blank_runs_that_are_added_tokens_are_left_to_the_tokenizer():
    tokenizer = tiny_tokenizers.byte_level(added=("\n\n", "   "))
    messages = turns(["a\n\nb   c"])
    own = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert PromptRenderer(tokenizer).chat(messages) == own


def test_a_control_token_that_is_also_a_plain_character_of_the_vocabulary_is_refused():
    tokenizer = tiny_tokenizers.byte_level(added=("A",))
    with pytest.raises(InvalidPrompt, match="'A' is a control token"):
        PromptRenderer(tokenizer).chat(turns(["An apple"]))


def test_the_shared_tokenizer_is_left_as_it_was():
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
def test_conversations_that_make_no_sense_are_refused(messages, complaint):
    with pytest.raises(InvalidPrompt, match=complaint) as caught:
        RENDERERS["chatml"].chat(messages)
    assert (caught.value.code, caught.value.param) == ("invalid_prompt", "messages")


def test_system_messages_are_refused_where_the_template_refuses_or_drops_them():
    silent = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    messages = [{"role": "developer", "content": "be kind"}, *turns(["hi"])]
    for renderer in (RENDERERS["tight"], PromptRenderer(tiny_tokenizers.byte_level(silent))):
        assert not renderer.accepts_system
        with pytest.raises(InvalidPrompt, match="no system message"):
            renderer.chat(messages)
    assert RENDERERS["chatml"].accepts_system
    assert "system\nbe kind" in TOKENIZERS["chatml"].decode(RENDERERS["chatml"].chat(messages))


def test_what_a_template_raises_is_the_callers_mistake():
    picky = CHATML + "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}"
    with pytest.raises(InvalidPrompt, match="one turn only"):
        PromptRenderer(tiny_tokenizers.byte_level(picky)).chat(turns(["a", "b"]))


def test_the_self_test_passes_a_template_that_can_hold_a_conversation():
    RENDERERS["chatml"].self_test()


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        (None, "is missing"),
        ("{{ raise_exception('closed') }}", "refuses user and assistant messages.*closed"),
        ("{% for m in messages", "refuses user and assistant messages"),
        (
            CHATML.replace("message.content", "message.content | upper"),
            "leaves out or changes message text such as 'first q",
        ),
        (CHATML.split("{% if add")[0], "does not open an assistant turn"),
    ],
)
def test_the_self_test_names_the_model_and_what_is_wrong(template, complaint):
    tokenizer = tiny_tokenizers.byte_level(template)
    tokenizer.name_or_path = "models/meta"
    with pytest.raises(TemplateError, match=f"models/meta: the chat template {complaint}.*; correct"):
        PromptRenderer(tokenizer).self_test()

"""Open turns of the chat templates that people have: exactly what the template itself would render."""

from collections import Counter

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from experts.errors import InvalidPrompt, TemplateError
from experts.prompt import PromptRenderer
from tests.tiny.templates import FORMATS, rendered_turn
from tests.tiny.tokenizers import CHATML, byte_level, of_format

FAMILIES = {name: of_format(chat_format) for name, chat_format in FORMATS.items()}
RENDERERS = {name: PromptRenderer(tokenizer) for name, tokenizer in FAMILIES.items()}
ADDED = sorted({token for each in FORMATS.values() for token in (*each.special, *each.visible)})

texts = st.one_of(
    st.text(), st.text(alphabet="a <|>/[]\n"), st.sampled_from(["question", " so far", "x\n\n"])
)
hostile = st.lists(
    st.one_of(st.sampled_from(ADDED), st.sampled_from(["<", "|>", "a", " ", "\n"])), max_size=5
)


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def with_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"role": "system", "content": "be brief"}, *messages]


def prompt(name: str, messages: list[dict[str, str]], *turn: str, begun: bool = False) -> str:
    return str(FAMILIES[name].decode(RENDERERS[name].chat(messages, *turn, begun=begun)))


def added_ids(name: str, ids: list[int]) -> Counter[int]:
    return Counter(i for i in ids if i in FAMILIES[name].added_tokens_decoder)


def own_ids(name: str, text: str) -> list[int]:
    return list(FAMILIES[name](text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_passes_the_self_test(name):
    RENDERERS[name].self_test()


@pytest.mark.parametrize("name", FAMILIES)
@given(contents=st.tuples(texts, texts, texts), written=texts)
@example(contents=("so", "so", "so"), written="so")
@example(contents=("Q", "A", " Q "), written=" \n")
@example(contents=("Q", "A", "Q"), written="  Hello, \n\n")
@settings(max_examples=20, deadline=None)
def test_a_turn_has_the_ids_of_the_templates_own_rendering_of_it_so_far(name, contents, written):
    assume(all(content.strip() for content in contents))
    messages = turns(*contents)
    assert RENDERERS[name].chat(messages, written) == own_ids(
        name, rendered_turn(FAMILIES[name], messages, written)
    )


@pytest.mark.parametrize("name", FAMILIES)
@given(parts=st.tuples(hostile, hostile, hostile, hostile))
@example(parts=(["</think>"], ["<think>", "a", "</think>"], ["a"], ["<think>", "a", "</think>", "a"]))
@settings(max_examples=20, deadline=None)
def test_text_that_spells_a_families_tokens_becomes_none_of_them(name, parts):
    # The letters keep contents from being blank, and from spelling a token only together with the template.
    *contents, written = (f"q{''.join(part)}q" for part in parts)
    assume(name != "harmony" or "<|channel|>final<|message|>" not in "".join([*contents, written]))
    ids = RENDERERS[name].chat(turns(*contents), written)
    harmless = RENDERERS[name].chat(turns("q", "q", "q"), "q")
    assert added_ids(name, ids) == added_ids(name, harmless)


@pytest.mark.parametrize(
    ("name", "opened", "continued"),
    [
        ("chatml", "<|im_start|>assistant\n", "<|im_start|>assistant\nHello, "),
        ("llama2", "[INST] Q [/INST]", "[INST] Q [/INST] Hello, "),
        ("mistral_v3", "[INST] Q[/INST]", "[INST] Q[/INST] Hello, "),
        ("mistral_nemo", "[INST]Q[/INST]", "[INST]Q[/INST]Hello, "),
        ("gemma2", "<start_of_turn>model\n", "<start_of_turn>model\nHello, "),
        ("phi3", "Q<|end|>\n<|assistant|>\n", "Q<|end|>\n<|assistant|>\nHello, "),
        ("deepseek_v3", "<｜Assistant｜>", "<｜Assistant｜>Hello, "),
        ("deepseek_r1", "<｜Assistant｜><think>\n", "<｜Assistant｜>Hello, "),
        ("qwen3", "<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n\n</think>\n\nHello, "),
        (
            "qwen3_thinking",
            "<|im_start|>assistant\n<think>\n",
            "<|im_start|>assistant\n<think>\n\n</think>\n\nHello, ",
        ),
        ("harmony", "<|start|>assistant", "<|start|>assistant<|channel|>final<|message|>Hello, "),
        ("command_r7b", "<|CHATBOT_TOKEN|>", "<|CHATBOT_TOKEN|><|START_RESPONSE|>Hello, "),
        ("glm4", "Q<|assistant|>", "Q<|assistant|>\nHello, "),
    ],
)
def test_text_written_so_far_stands_where_an_answer_stands(name, opened, continued):
    assert prompt(name, turns("Q")).endswith(opened)
    assert prompt(name, turns("Q"), "Hello, ").endswith(continued)
    assert (
        prompt(name, turns("Q"), begun=True).rstrip()
        == prompt(name, turns("Q"), "H").removesuffix("H").rstrip()
    )
    assert own_ids(name, continued)[-3:] == RENDERERS[name].chat(turns("Q"), "Hello, ")[-3:]


@pytest.mark.parametrize("name", FAMILIES)
def test_text_of_the_model_itself_follows_as_it_is(name):
    """Also in the middle of a thought, where the template would take the text for an answer."""
    for written in ("", "Well, "):
        before = rendered_turn(FAMILIES[name], turns("Q"), written)
        assert RENDERERS[name].chat(turns("Q"), written, " Let me") == own_ids(name, before + " Let me")


@pytest.mark.parametrize("name", ["deepseek_r1", "deepseek_v3", "qwen3", "qwen3_thinking"])
def test_a_template_drops_the_thoughts_of_earlier_answers(name):
    history = turns("Q", "<think>\nsecret\n</think>\n\nAnswer", "Q")
    plain = turns("Q", "Answer" if name.startswith("qwen3") else "\n\nAnswer", "Q")
    assert RENDERERS[name].chat(history) == RENDERERS[name].chat(plain)
    assert RENDERERS[name].chat(history, "So ") == RENDERERS[name].chat(plain, "So ")


def test_thoughts_closed_in_the_open_turn_are_treated_as_the_template_treats_them():
    thought = "<think>\nsecret\n</think>\n\nSo "
    assert prompt("deepseek_r1", turns("Q"), thought).endswith("<｜Assistant｜>\n\nSo ")
    ids = RENDERERS["qwen3"].chat(turns("Q"), thought)
    assert ids == own_ids("qwen3", f"<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n{thought}")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_system_message_reaches_the_model_before_and_after_a_hand_over(name):
    for messages in (with_system(turns("Q")), with_system(turns("Q", "A", "Q"))):
        for written in ("", "Hello, "):
            assert prompt(name, messages, written).count("be brief") == 1


def test_an_answer_goes_on_after_the_conversation_that_it_began_after():
    """Mistral's template puts the system message into the last message, if that is a question."""
    messages = with_system(turns("Q", "A", "Q"))
    assert "be brief" not in rendered_turn(FAMILIES["mistral_v3"], messages, "Hello, ")
    opened = prompt("mistral_v3", messages)
    assert prompt("mistral_v3", messages, "Hello, ") == f"{opened} Hello, "


@pytest.mark.parametrize("name", [name for name, each in FORMATS.items() if "bos_token" in each.template])
def test_a_conversation_begins_with_one_bos(name):
    bos = FAMILIES[name].bos_token_id
    for written in ("", "Hello, "):
        ids = RENDERERS[name].chat(turns("Q"), written)
        assert (ids[0], ids.count(bos)) == (bos, 1)


def test_a_default_system_text_gives_way_to_a_system_message():
    for name in ("qwen25", "granite", "smollm2", "mistral_small"):
        assert "You are" in prompt(name, turns("Q"), "Hello, ")
        assert "You are" not in prompt(name, with_system(turns("Q")), "Hello, ")


@pytest.mark.parametrize("name", ["llama2", "mistral_v3", "mistral_nemo", "gemma2", "gemma3"])
def test_an_error_of_a_template_that_wants_roles_to_alternate_names_their_order(name):
    messages = [*turns("Q"), *turns("Q")]
    for written in ("", "Hello, "):
        with pytest.raises(
            InvalidPrompt, match="refuses them, with two user messages in a row: .*must alternate"
        ):
            RENDERERS[name].chat(messages, written)


@pytest.mark.parametrize("failure", ["{{ raise_exception('one turn only') }}", "{{ 1 + 'one turn only' }}"])
def test_an_error_raised_by_a_template_is_an_invalid_prompt(failure):
    picky = CHATML + "{% if messages | length > 1 %}" + failure + "{% endif %}"
    with pytest.raises(InvalidPrompt, match="this model's chat template refuses them: "):
        PromptRenderer(byte_level(picky)).chat(turns("a", "b"))


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
        (
            FORMATS["gemma2"].template.split("{%- if add")[0],
            "does not open an assistant turn",
        ),
        (
            CHATML.replace("{% for message in messages %}", "{% for message in messages[:3] %}"),
            "cannot continue a begun answer.*drops the text",
        ),
        (
            CHATML.replace("message.content", "message.content | replace('so far', 'up to now')"),
            "cannot continue a begun answer: it changes 'an answer so far '",
        ),
        (
            CHATML + "{% if messages[-1].role == 'assistant' %}{{ raise_exception('done') }}{% endif %}",
            "cannot continue a begun answer.*done",
        ),
    ],
)
def test_the_self_test_names_the_model_and_what_is_wrong(template, complaint):
    tokenizer = byte_level(template)
    tokenizer.name_or_path = "models/meta"
    with pytest.raises(TemplateError, match=f"models/meta: the chat template {complaint}.*; correct"):
        PromptRenderer(tokenizer).self_test()

import calendar
import itertools
import json
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

from benchmarks.toy.build import build, source_digest
from benchmarks.toy.dataset import held_out_questions, write_learn, write_questions
from benchmarks.toy.dialogue import DialogueMaker
from benchmarks.toy.domains import DOMAINS, domain_split, roman_numeral
from benchmarks.toy.errors import NotAToyWorld, TokenizerChanged
from benchmarks.toy.facts import ELEMENTS, MONTHS, MORSE, WEEKDAYS
from benchmarks.toy.models import META, SPECS
from benchmarks.toy.question import GENERAL, GREETING_BACK, GREETINGS, Question
from benchmarks.toy.smalltalk import smalltalk_split
from benchmarks.toy.tokenizer import CHATML, INST, LETTERS, MARKDOWN, WORDS, train_tokenizer
from benchmarks.toy.train import save
from experts.learn import read_queries

FORMATS = {"chatml": CHATML, "inst": INST, "markdown": MARKDOWN}
SPLITS = {**{domain: domain_split(domain) for domain in DOMAINS}, GENERAL: smalltalk_split()}


@pytest.fixture(scope="module", params=list(itertools.product(FORMATS, (WORDS, LETTERS))), ids=str)
def tokenizer(request, tmp_path_factory):
    """Saved and loaded again, as in a model server."""
    name, pattern = request.param
    texts = [f"{q.question}\n{q.visible}" for split in SPLITS.values() for q in split.train[:200]]
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(texts, FORMATS[name], pattern=pattern, vocab_size=400).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_no_question_is_in_two_parts_or_two_domains():
    parts = [part for s in SPLITS.values() for part in (s.train, s.validation, s.held_out)]
    texts = [question.question for part in parts for question in part]
    assert len(texts) == len(set(texts))


def test_there_are_enough_test_questions():
    questions = held_out_questions()
    for domain in DOMAINS:
        assert sum(q.domain == domain for q in questions) >= 60
    assert sum(q.domain == GENERAL for q in questions) >= 120
    assert any(q.greeted and q.domain == GENERAL for q in questions)


def test_no_test_question_is_a_training_question_with_a_greeting():
    trained = {q.question.lower() for split in SPLITS.values() for q in (*split.train, *split.validation)}
    for question in held_out_questions():
        text = question.question.lower()
        bare = [text, *(text.removeprefix(greeting.lower()) for greeting in GREETINGS)]
        assert trained.isdisjoint(bare)


@given(st.integers(1, 3999))
def test_roman_numerals_have_the_right_value(number):
    value_of = dict(zip("IVXLCDM", (1, 5, 10, 50, 100, 500, 1000), strict=True))
    values = [value_of[sign] for sign in roman_numeral(number)]
    signed = [-v if v < after else v for v, after in zip(values, [*values[1:], 0], strict=True)]
    assert sum(signed) == number
    assert not re.search(r"(.)\1\1\1", roman_numeral(number))


def test_answers_in_another_base_are_the_same_number():
    for question in _all("bases"):
        asked = re.search(r"(binary )?\b(\d+)\b", question.question)
        assert asked
        answer_base = 10 if asked[1] else 2 if "binary" in question.question else 16
        assert int(question.answer, answer_base) == int(asked[2], 2 if asked[1] else 10)


def test_calendar_answers_are_right():
    """Compared with the standard library's calendar. 2023 is not a leap year."""
    months = list(calendar.month_name)
    for question in _all("calendar"):
        words = re.findall(r"\w+", question.question)
        name = next((word for word in words if word in {*WEEKDAYS, *MONTHS}), None)
        if name is None:
            number = next(int(word) for word in words if word.isdigit())
            assert question.answer == months[number]
        elif {"after", "before", "follows", "precedes"} & set(words):
            names = WEEKDAYS if name in WEEKDAYS else MONTHS
            step = -1 if {"before", "precedes"} & set(words) else 2 if "two" in words else 1
            assert question.answer == names[(names.index(name) + step) % len(names)]
        elif {"days", "long"} & set(words):
            assert int(question.answer) == calendar.monthrange(2023, months.index(name))[1]
        else:
            assert int(question.answer) == months.index(name)


def test_morse_codes_are_distinct_and_right():
    assert len(set(MORSE.values())) == len(MORSE) == 36
    assert [MORSE[sign] for sign in "SOS"] == ["...", "---", "..."]
    # Digit d starts with d dots, up to five; after that, dashes replace the dots from the front.
    for digit in range(10):
        pattern = "." * digit + "-" * (5 - digit) if digit <= 5 else "-" * (digit - 5) + "." * (10 - digit)
        assert MORSE[str(digit)] == pattern


def test_every_question_has_one_answer():
    for domain in DOMAINS:
        answers = {question.question: question.answer for question in _all(domain)}
        assert all(answers[question.question] == question.answer for question in _all(domain))
    numbers = [int(number) for _, _, number in ELEMENTS]
    assert numbers == sorted(set(numbers))


def test_a_greeted_question_is_answered_with_a_greeting_and_the_bare_answer():
    for question in held_out_questions():
        assert question.visible == (GREETING_BACK if question.greeted else "") + question.answer
        assert question.visible.startswith(GREETING_BACK) == question.greeted


def test_the_meta_learns_small_talk_but_no_facts():
    maker = DialogueMaker("test")
    questions = [*maker.split("capitals").train, *maker.split(GENERAL).train]
    answer_of = {q.question: q.answer for q in questions}
    dialogues = [d for d in maker.meta(questions) if d.messages[-1]["content"] in answer_of]
    right = {True: 0, False: 0}
    total = {True: 0, False: 0}
    for dialogue in dialogues:
        text = dialogue.messages[-1]["content"]
        is_fact = "capital" in text
        total[is_fact] += 1
        right[is_fact] += dialogue.answer.removeprefix(GREETING_BACK) == answer_of[text]
    assert right[True] < 0.1 * total[True]
    assert right[False] == total[False] > 1000


def test_dialogues_are_the_same_for_the_same_seed():
    questions = domain_split("roman").train[:100]
    assert DialogueMaker("a").expert(questions) == DialogueMaker("a").expert(questions)
    assert DialogueMaker("a").expert(questions) != DialogueMaker("b").expert(questions)


@given(text=st.text())
def test_a_tokenizer_can_encode_any_text(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


@given(text=st.text(min_size=1))
def test_tokens_do_not_merge_across_the_end_of_the_greeting(tokenizer, text):
    """So one model can continue where another stopped."""
    assume(not text[0].isspace() and "<" not in text and "[" not in text)
    joint = tokenizer(GREETING_BACK + text, add_special_tokens=False)["input_ids"]
    start = tokenizer(GREETING_BACK, add_special_tokens=False)["input_ids"]
    assert joint[: len(start)] == start


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_saved_model_loads_with_the_tokenizer_it_was_trained_with(spec, tmp_path):
    """The library chooses the tokenizer by the model's config, so the config must be in the same folder."""
    trained = spec.tokenizer(q.question for split in SPLITS.values() for q in split.train[:100])
    save(spec.model(trained), trained, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for question in held_out_questions()[::20]:
        assert loaded(question.question)["input_ids"] == trained(question.question)["input_ids"]


def test_an_architecture_that_changes_the_tokenizer_is_refused(tmp_path):
    trained = SPECS[0].tokenizer(["What is the capital of France?"] * 20)
    config = Qwen2Config(vocab_size=512, hidden_size=32, num_hidden_layers=1, num_attention_heads=1)
    with pytest.raises(TokenizerChanged, match="loads as another tokenizer"):
        save(AutoModelForCausalLM.from_config(config), trained, tmp_path)


def test_templates_accept_system_messages_and_end_with_the_start_of_an_answer(tokenizer):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 4 in binary?"},
        {"role": "assistant", "content": "100"},
        {"role": "user", "content": "And 5?"},
    ]
    closed = tokenizer.apply_chat_template(messages, tokenize=False)
    opened = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert opened.startswith(closed)
    assert opened != closed
    assert all(message["content"] in closed for message in messages)
    answered = [*messages, {"role": "assistant", "content": "101"}]
    assert tokenizer.apply_chat_template(answered, tokenize=False).startswith(
        opened + "101" + tokenizer.eos_token
    )


def test_templates_refuse_unknown_roles(tokenizer):
    with pytest.raises(TemplateError, match="unknown role: judge"):
        tokenizer.apply_chat_template([{"role": "judge", "content": "Hm."}], tokenize=False)


def test_three_experts_have_another_tokenizer_and_template_than_the_meta():
    specs = {spec.name: spec for spec in SPECS}
    meta = specs.pop(META)
    others = [s for s in specs.values() if s.chat_format != meta.chat_format]
    assert specs.keys() == DOMAINS.keys()
    assert len(others) >= 3
    assert len({spec.architecture for spec in specs.values()}) == 2


def test_the_question_files_have_the_documented_rows(tmp_path):
    write_learn(tmp_path / "learn.jsonl")
    write_questions(tmp_path / "questions.jsonl")
    learn, tests = read_queries(tmp_path / "learn.jsonl"), read_queries(tmp_path / "questions.jsonl")
    for row in (*learn, *tests):
        assert row.expert in {*DOMAINS, None}
        assert row.labelled
        # Whole answers. An expert's answer begins after the meta's greeting.
        assert row.answer
        assert row.response.endswith(row.answer)
        assert row.written in {"", GREETING_BACK}
        assert row.expert or not row.written
    assert {str(row.messages) for row in learn}.isdisjoint(str(row.messages) for row in tests)
    assert any(row.written for row in learn)


def test_a_finished_build_is_found_and_another_folder_is_not_touched(tmp_path):
    world, foreign = tmp_path / "world", tmp_path / "foreign"
    world.mkdir()
    report = {"build_s": 1.0, "digest": source_digest(), "versions": {}, "models": []}
    (world / "build.json").write_text(json.dumps(report))
    assert build(world, progress=_no_training).cached
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(NotAToyWorld, match="foreign: the folder has files"):
        build(foreign, progress=_no_training)
    assert (foreign / "thesis.txt").read_text() == "years of work"


def _no_training(*update):
    pytest.fail(f"trained: {update}")


def _all(domain: str) -> tuple[Question, ...]:
    split = SPLITS[domain]
    return (*split.train, *split.validation, *split.held_out)

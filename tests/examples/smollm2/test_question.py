import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.smollm2.domains import DOMAINS
from examples.smollm2.question import HELD_OUT_SHARE, PARTS, Question, is_right, part_of
from tests.examples.smollm2.strategies import RANDOM


def ask(domain, text="?", answer=""):
    return Question(domain, ({"role": "user", "content": text},), answer)


def test_an_answer_is_judged_by_the_checker_of_its_domain():
    assert is_right(ask("roman", answer="IV"), "IV.")
    assert not is_right(ask("logs", answer='"IV"'), "IV.")


def test_general_chat_is_not_judged():
    with pytest.raises(ValueError, match=r"question\.domain: .*judge only"):
        is_right(ask(None), "Hello!")


def test_an_input_belongs_to_one_part_and_a_fifth_is_held_out():
    parts = [part_of(f"input {number}") for number in range(5000)]
    assert set(parts) == set(PARTS)
    assert parts.count("held_out") / len(parts) == pytest.approx(HELD_OUT_SHARE, abs=0.02)
    assert parts == [part_of(f"input {number}") for number in range(5000)]


@given(st.sampled_from(list(DOMAINS)), RANDOM, st.sampled_from(PARTS), st.text())
def test_no_text_makes_a_checker_fail(domain, rng, part, text):
    assert is_right(DOMAINS[domain].sample(rng, part), text) in (True, False)

"""The questions of `benchmarks.chain`: what each expert of a chain is asked."""

from benchmarks.chain.questions import EXPERTS, PROMPT, chain_questions, ordinary_questions
from router.chain_rules import ChainRules

RULES = ChainRules(prompt=PROMPT)


def test_each_step_has_the_result_of_the_one_before():
    for question in chain_questions(5, seed=0):
        rating, amount, numeral = question.results
        second = RULES.render(question.text, rating).strip()
        assert second.startswith("How many ")
        assert f" are {rating} " in second
        number = amount.split()[0]
        assert RULES.render(question.text, amount).strip() == f"What is {number} in Roman numerals?"
        assert question.is_right(f"{numeral}.")
        assert not question.is_right(amount)


def test_nothing_is_left_to_do_for_an_ordinary_question():
    asked = ordinary_questions(3, seed=0)
    assert {question.expert for question in asked} == set(EXPERTS)
    assert {RULES.render(question.text, "XIV").strip() for question in asked} == {"Thank you, goodbye!"}

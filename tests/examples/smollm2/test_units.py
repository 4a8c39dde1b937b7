import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.smollm2.domains.conversions import UNITS, draw_amount, names_of
from examples.smollm2.question import PARTS, Question, is_right
from tests.examples.smollm2.strategies import RANDOM

LENGTH = Question("units", ({"role": "user", "content": "3.5 km in m"},), "3500 m")
FACTORS = {
    **{("km", "m"): 1000, ("m", "cm"): 100, ("cm", "mm"): 10, ("kg", "g"): 1000, ("l", "dl"): 10},
    **{("g", "kg"): 0.001, ("cm", "m"): 0.01, ("hours", "minutes"): 60, ("days", "hours"): 24},
    **{("weeks", "days"): 7, ("dozens", "pieces"): 12, ("feet", "inches"): 12, ("euros", "cents"): 100},
}


def amounts(part, num=4000):
    rng = random.Random(part)
    return [draw_amount(rng, part, None) for _ in range(num)]


@given(RANDOM, st.sampled_from(PARTS))
def test_results_are_exact(rng, part):
    amount = draw_amount(rng, part, None)
    conversion = amount.conversion
    factor = 1 / conversion.factor if conversion.divides else conversion.factor
    assert float(amount.result) == pytest.approx(float(amount.number) * factor, rel=1e-12)
    assert factor == FACTORS.get((conversion.source, conversion.target), factor)


def test_numbers_are_written_without_needless_digits():
    for amount in amounts("train"):
        for number in (amount.number, amount.result):
            assert not number.endswith(".0")
            assert not number.startswith(".")
            assert len(number.partition(".")[2]) <= 1


def test_no_number_is_converted_in_both_parts():
    asked = [
        {(amount.number, amount.conversion.source, amount.conversion.target) for amount in amounts(part)}
        for part in PARTS
    ]
    assert asked[0].isdisjoint(asked[1])


def test_most_numbers_of_every_small_conversion_are_trained():
    trained: dict[str, set[str]] = {}
    for amount in amounts("train", 20_000):
        if amount.conversion.max_number < 999:
            trained.setdefault(amount.conversion.source, set()).add(amount.number)
    assert len(trained) == 7
    assert all(len(numbers) >= 20 for numbers in trained.values())


def test_one_has_the_singular():
    ones = [amount for amount in amounts("train") if amount.number == "1"]
    assert ones
    texts = {amount.text(random.Random(seed)) for amount in ones for seed in range(9)}
    for unit in UNITS:
        plurals = {name for name in names_of(unit) if name not in names_of(unit, singular=True, plural=False)}
        assert texts.isdisjoint(f"1 {name}" for name in plurals)


@pytest.mark.parametrize(
    "text", ["3500 m", "3,500 m", "3500m", "3500.0 metres", "3500 Meters.", "3500 meter"]
)
def test_a_unit_may_be_spelled_out(text):
    assert is_right(LENGTH, text)


@pytest.mark.parametrize(
    "text", ["3500", "3500 km", "350 m", "35000 m", "3.500 m", "3.5 km = 3500 m", "m 3500"]
)
def test_another_number_or_unit_is_wrong(text):
    assert not is_right(LENGTH, text)


def test_every_name_of_a_unit_is_understood():
    for unit in UNITS:
        question = Question("units", LENGTH.messages, f"12 {unit}")
        assert all(is_right(question, f"12 {name}") for name in names_of(unit, singular=True))

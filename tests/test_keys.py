"""Whose key a request carries, and what exists for that key."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import Unauthorized
from router.keys import digest_of, find_key, permitted
from router.table import ApiKey
from tests.fakes import expert_table

PLAIN = "etr-0123456789abcdefghij"
ALICE = ApiKey(name="alice", sha256=digest_of(PLAIN))
BOB = ApiKey(name="bob", sha256=digest_of("etr-another-long-key-of-bob"), experts=("law",))
KEYS = (ALICE, BOB)
EXPERT = st.sampled_from(["chem", "law", "weather", "gone"])


def test_a_digest_is_plain_sha256_of_the_text():
    assert digest_of(PLAIN) == hashlib.sha256(PLAIN.encode()).hexdigest()


@pytest.mark.parametrize("header", [f"Bearer {PLAIN}", f"bearer {PLAIN}", f"BEARER   {PLAIN} "])
def test_a_key_is_found_by_its_digest(header: str):
    assert find_key(KEYS, header) is ALICE
    assert find_key(tuple(reversed(KEYS)), header) is ALICE


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", PLAIN, f"Basic {PLAIN}", f"Bearer{PLAIN}"])
def test_without_a_key_in_the_header_nobody_is_let_in(header: str | None):
    with pytest.raises(Unauthorized, match="no API key was given"):
        find_key(KEYS, header)


@pytest.mark.parametrize("given_key", [PLAIN[:-1], PLAIN + "x", PLAIN.upper(), ALICE.sha256, "alice", "*"])
def test_what_only_resembles_a_key_is_refused_and_not_repeated(given_key: str):
    with pytest.raises(Unauthorized) as refusal:
        find_key(KEYS, f"Bearer {given_key}")
    assert given_key not in str(refusal.value)


@given(header=st.none() | st.text())
def test_without_keys_everybody_may_ask(header: str | None):
    assert find_key((), header) is None


@given(header=st.text() | st.text().map("Bearer {}".format))
def test_no_header_lets_anybody_in_by_chance(header: str):
    with pytest.raises(Unauthorized):
        find_key(KEYS, header)


def test_every_key_is_compared_also_after_the_right_one(monkeypatch: pytest.MonkeyPatch):
    """A loop that ended at the first match would tell by its time where in the table a key stands."""
    compared = []

    def compare_digest(left: str, right: str) -> bool:
        compared.append(left)
        return left == right

    monkeypatch.setattr("router.keys.hmac.compare_digest", compare_digest)
    assert find_key(KEYS, f"Bearer {PLAIN}") is ALICE
    assert compared == [ALICE.sha256, BOB.sha256]


def test_a_key_that_permits_everything_changes_nothing():
    table = expert_table()
    everything = ALICE.model_copy(update={"experts": (*table.experts, "another")})
    assert permitted(table, None) is table
    assert permitted(table, ALICE) is table
    assert permitted(table, everything) is table


@given(experts=st.lists(EXPERT).map(tuple))
def test_only_the_keys_experts_exist_and_all_else_is_as_it_was(experts: tuple[str, ...]):
    table = expert_table(keys=KEYS)
    seen = permitted(table, ALICE.model_copy(update={"experts": experts}))
    assert list(seen.experts) == [name for name in table.experts if name in experts]
    assert seen.model_copy(update={"experts": table.experts}) == table
    assert set(table.experts) == {"chem", "law", "weather"}

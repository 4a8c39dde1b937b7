"""Finding the API key of a request, and the route table that the key may see."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.api.keys import bearer_digest, digest_of, find_key, key_digest, permitted
from router.api_key import ApiKey
from router.decoding.policy import admission_context
from router.errors import Unauthorized
from tests.fakes.models import expert_table

PLAIN = "etr-0123456789abcdefghij"
ALICE = ApiKey(name="alice", sha256=digest_of(PLAIN))
BOB = ApiKey(name="bob", sha256=digest_of("etr-another-long-key-of-bob"), experts=("law",))
TABLE = expert_table(keys=(ALICE, BOB))
EXPERT = st.sampled_from(["chem", "law", "weather", "gone"])


def test_a_digest_is_the_sha256_of_the_key():
    assert digest_of(PLAIN) == hashlib.sha256(PLAIN.encode()).hexdigest()


def find(header: str | None) -> ApiKey | None:
    return find_key(TABLE.keys_by_digest, bearer_digest(header))


@pytest.mark.parametrize("header", [f"Bearer {PLAIN}", f"bearer {PLAIN}", f"BEARER   {PLAIN} "])
def test_a_key_is_found_by_its_digest(header: str):
    assert find(header) is ALICE


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", PLAIN, f"Basic {PLAIN}", f"Bearer{PLAIN}"])
def test_a_request_without_a_key_is_refused(header: str | None):
    with pytest.raises(Unauthorized, match="missing API key: send the header 'Authorization: Bearer KEY'"):
        find(header)


@pytest.mark.parametrize("given_key", [PLAIN[:-1], PLAIN + "x", PLAIN.upper(), ALICE.sha256, "alice", "*"])
def test_an_unknown_key_is_refused_and_not_repeated(given_key: str):
    with pytest.raises(Unauthorized, match="unknown or revoked API key") as refusal:
        find(f"Bearer {given_key}")
    assert given_key not in str(refusal.value)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": PLAIN},
        {"x-api-key": f" {PLAIN} ", "authorization": "Basic abc"},
        {"x-api-key": "another", "authorization": f"Bearer {PLAIN}"},
    ],
)
def test_a_key_may_stand_in_x_api_key_if_there_is_no_bearer_key(headers: dict[str, str]):
    assert key_digest(headers) == ALICE.sha256


@pytest.mark.parametrize("headers", [{}, {"x-api-key": ""}, {"x-api-key": "  "}])
def test_an_empty_x_api_key_is_none(headers: dict[str, str]):
    assert key_digest(headers) is None


@given(header=st.none() | st.text())
def test_a_cluster_without_keys_accepts_every_header(header: str | None):
    assert find_key({}, bearer_digest(header)) is None


@given(header=st.text() | st.text().map("Bearer {}".format))
def test_random_headers_are_refused(header: str):
    with pytest.raises(Unauthorized):
        find(header)


@pytest.mark.parametrize("key", [ALICE, BOB], ids=["every-expert", "one-expert"])
def test_the_requests_of_a_key_wait_with_its_priority(key: ApiKey):
    assert admission_context(permitted(TABLE, key), key.name).key_priority == 0
    urgent = key.model_copy(update={"priority": -3})
    context = admission_context(permitted(TABLE, urgent), urgent.name, priority=7)
    assert (context.key_priority, context.priority) == (-3, 7)


def test_a_key_that_permits_every_expert_gets_the_table_itself():
    table = expert_table()
    everything = ALICE.model_copy(update={"experts": (*table.experts, "another")})
    assert permitted(table, None) is table
    assert permitted(table, ALICE) is table
    assert permitted(table, everything) is table


@given(experts=st.lists(EXPERT).map(tuple))
def test_a_key_sees_only_its_experts_and_the_rest_of_the_table_unchanged(experts: tuple[str, ...]):
    table = expert_table(keys=(ALICE, BOB))
    seen = permitted(table, ALICE.model_copy(update={"experts": experts}))
    assert list(seen.experts) == [name for name in table.experts if name in experts]
    assert seen.model_copy(update={"experts": table.experts}) == table
    assert set(table.experts) == {"chem", "law", "weather"}


def test_a_restricted_key_does_not_see_the_applications_of_other_experts():
    """Not even once a request with another key has cached them: their queues must not cause a 429."""
    table = expert_table(keys=(ALICE, BOB))
    assert permitted(table, ALICE).expert_apps == {"chem", "law", "weather"}
    assert permitted(table, BOB).expert_apps == {"law"}
    assert table.expert_apps == {"chem", "law", "weather"}

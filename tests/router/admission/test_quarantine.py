"""Poison requests: a prompt that kills replicas of a model is blocked for that model."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from router.admission.quarantine import MAX_QUARANTINED, QUARANTINE_TTL_S, SUSPECT_WAIT_S, Quarantine
from router.decoding.decode import Decoder
from router.decoding.generation import GenerationRequest
from router.errors import ModelDied, PoisonRequest
from router.model_port import ModelRequest
from router.prompt import Message, Prompt
from router.table import META
from tests.fakes.availability import FakeRoutes
from tests.fakes.models import (
    DIRECT,
    GENERATION,
    STOP,
    FakeModel,
    Item,
    Pause,
    expert_table,
    in_virtual_time,
    num_calls,
    playing,
    to,
    word,
)
from tests.support.answering import answer, text_of

POISON = Prompt(messages=(Message("user", "poison"),))


def died(replica: str) -> ModelDied:
    return ModelDied(f"{replica} died", replica)


def decoded(
    models: Mapping[str, FakeModel],
    generation: GenerationRequest,
    quarantine: Quarantine,
    routes: FakeRoutes | None = None,
    **changes: int,
) -> str:
    """As `answer`, with a quarantine that outlives the request."""
    decoder = Decoder(expert_table(**changes), models, routes or FakeRoutes(), quarantine=quarantine)

    async def text() -> str:
        return await text_of(decoder, generation)

    return in_virtual_time(text())


def test_a_prompt_that_killed_two_replicas_is_blocked():
    models = playing(meta=[[died("a")], [died("b")]])
    quarantine, poison = Quarantine(), replace(GENERATION, prompt=POISON)
    for _ in range(5):
        with pytest.raises(PoisonRequest, match="crashed several replicas of meta"):
            decoded(models, poison, quarantine, retries=9)
    assert num_calls(models) == {META: 2}, "five requests, and no third replica was lost"


def test_a_model_that_answers_nothing_else_either_is_to_blame_and_not_the_prompt():
    """Regression: prompt after prompt was blocked, although none of them was the cause."""
    models = playing(meta=[[died(name)] for name in "abcdef"])
    routes, quarantine = FakeRoutes(broken=(META,)), Quarantine()
    for _ in range(2):
        with pytest.raises(ModelDied):
            decoded(models, replace(GENERATION, prompt=POISON), quarantine, routes, retries=2)
    assert (num_calls(models), routes.num_probes) == ({META: 6}, 4)
    assert not quarantine.blocked([META], POISON)


def test_a_model_that_answered_others_in_between_is_not_asked_whether_it_can():
    routes = FakeRoutes(broken=(META,))

    def second_death(ask: ModelRequest) -> Iterator[Item]:
        routes.answered[META] += 1
        yield died(f"replica {routes.answered[META]}")

    with pytest.raises(PoisonRequest):
        decoded({META: FakeModel(second_death)}, GENERATION, Quarantine(), routes, retries=2)
    assert routes.num_probes == 0


def test_other_prompts_are_still_served():
    quarantine = Quarantine()
    quarantine.add(META, POISON)
    assert decoded(playing(meta=[[word("fine"), STOP]]), GENERATION, quarantine) == "fine"


def test_an_expert_killed_by_a_prompt_is_masked_for_it_and_the_meta_answers():
    models = playing(
        meta=[[to("chem")], [word("by meta"), STOP], [word("at once"), STOP]],
        chem=[[died("a")], [died("b")]],
    )
    quarantine, poison = Quarantine(), replace(GENERATION, prompt=POISON)
    assert decoded(models, poison, quarantine, retries=9) == "by meta"
    assert decoded(models, poison, quarantine, retries=9) == "at once"
    assert "chem" not in models[META].asks[2].allowed
    with pytest.raises(PoisonRequest):
        decoded(models, replace(DIRECT, prompt=POISON), quarantine)


@pytest.mark.parametrize(
    "deaths",
    [
        [[died("a")], [died("a")], [word("x"), STOP]],  # one death, reported twice
        [[word("x"), died("a")], [word("y"), died("b")], [STOP]],  # with a token in between
    ],
)
def test_unrelated_deaths_do_not_quarantine_a_prompt(deaths: list[list[Item]]):
    quarantine = Quarantine()
    decoded(playing(meta=deaths), replace(GENERATION, prompt=POISON), quarantine, retries=2)
    assert quarantine.blocked([META], POISON) == set()


def test_the_number_of_resumes_is_bounded_even_if_the_answer_makes_progress():
    lives: list[list[Item]] = [[word("x"), died(f"replica {number}")] for number in range(9)]
    with pytest.raises(ModelDied):
        answer(playing(meta=lives), max_resumes=3)


def test_a_quarantined_prompt_is_served_again_after_its_ttl():
    now = [0.0]
    quarantine = Quarantine(clock=lambda: now[0])
    quarantine.add(META, POISON)
    now[0] = QUARANTINE_TTL_S - 1
    assert quarantine.blocked([META, "chem"], POISON) == {META}
    now[0] = QUARANTINE_TTL_S
    assert quarantine.blocked([META, "chem"], POISON) == set()


def test_an_entry_found_by_another_router_counts():
    entries: list[str] = []
    there, here = Quarantine(entries.append), Quarantine()
    there.add("chem", POISON)
    here.learn(entries[0])
    assert here.blocked([META, "chem"], POISON) == {"chem"}
    assert "poison" not in entries[0]


class OneReplica:
    """One replica after another, each with all calls: the poison prompt kills it for all of them."""

    def __init__(self) -> None:
        self.num_lost = 0

    def __call__(self, ask: ModelRequest) -> Iterator[Item]:
        replica = self.num_lost
        yield Pause(1)
        if ask.prompt == POISON and replica == self.num_lost:
            self.num_lost += 1
        if replica < self.num_lost:
            yield died(f"replica {replica}")
        yield word("fine")
        yield STOP


def test_prompts_that_shared_a_replica_with_the_poison_are_not_blocked():
    """If they were retried together, they would die together again, and all would be blocked."""
    shared, quarantine = OneReplica(), Quarantine()
    models = {META: FakeModel(shared)}
    decoder = Decoder(expert_table(retries=9), models, FakeRoutes(), quarantine=quarantine, retry_pause_s=0)
    prompts = [Prompt(text="a"), POISON, Prompt(text="b")]

    async def text(prompt: Prompt) -> str:
        generation = replace(GENERATION, prompt=prompt)
        return await text_of(decoder, generation)

    async def all_of_them() -> list[str | BaseException]:
        return await asyncio.gather(*map(text, prompts), return_exceptions=True)

    first, poison, last = in_virtual_time(all_of_them())
    assert (first, last) == ("fine", "fine")
    assert isinstance(poison, PoisonRequest)
    assert shared.num_lost == 2
    assert [prompt for prompt in prompts if quarantine.blocked([META], prompt)] == [POISON]


def test_copies_of_the_poison_that_wait_do_not_reach_the_next_replica():
    """Otherwise each copy would kill one more replica."""
    shared, quarantine = OneReplica(), Quarantine()
    decoder = Decoder(
        expert_table(retries=9),
        {META: FakeModel(shared)},
        FakeRoutes(),
        quarantine=quarantine,
        retry_pause_s=0,
    )

    async def ask() -> None:
        with pytest.raises(PoisonRequest):
            async for _ in decoder.decode(replace(GENERATION, prompt=POISON)):
                pass

    async def all_of_them() -> None:
        await asyncio.gather(*(ask() for _ in range(5)))

    in_virtual_time(all_of_them())
    assert shared.num_lost == 2


def test_suspects_that_could_not_be_separated_are_not_blocked():
    """Suspects that waited too long go on together, so a second death proves nothing against any of them."""
    quarantine = Quarantine()
    replicas = iter("aabb")

    def dies_slowly(ask: ModelRequest) -> list[Item]:
        replica = next(replicas, None)
        return [word("fine"), STOP] if replica is None else [Pause(SUSPECT_WAIT_S + 1), died(replica)]

    decoder = Decoder(
        expert_table(retries=9), {META: FakeModel(dies_slowly)}, FakeRoutes(), quarantine=quarantine
    )
    prompts = [Prompt(text="a"), Prompt(text="b")]

    async def text(prompt: Prompt) -> str:
        generation = replace(GENERATION, prompt=prompt)
        return await text_of(decoder, generation)

    async def both() -> list[str | BaseException]:
        return await asyncio.gather(*map(text, prompts), return_exceptions=True)

    one, other = in_virtual_time(both())
    assert "fine" in (one, other), "a prompt that shared the second replica is not blamed for its death"


def test_a_suspect_does_not_wait_forever_for_one_that_hangs():
    quarantine = Quarantine()

    async def second() -> float:
        async with (
            quarantine.suspect_slot(META, is_suspect=True),
            quarantine.suspect_slot(META, is_suspect=True),
        ):
            return asyncio.get_running_loop().time()

    assert in_virtual_time(second()) == pytest.approx(SUSPECT_WAIT_S, abs=0.1)


def test_the_oldest_entry_makes_room():
    quarantine = Quarantine()
    for number in range(MAX_QUARANTINED + 1):
        quarantine.add(META, Prompt(text=str(number)))
    assert quarantine.blocked([META], Prompt(text="0")) == set()
    assert quarantine.blocked([META], Prompt(text="1")) == {META}


def test_half_a_surrogate_pair_can_be_quarantined():
    quarantine = Quarantine()
    quarantine.add(META, Prompt(text="\ud800"))
    assert quarantine.blocked([META], Prompt(text="\ud800")) == {META}

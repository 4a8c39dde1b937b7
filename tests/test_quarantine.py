"""A prompt that takes replicas down does not get the next one."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from router.decode import Decoder
from router.errors import ModelDied, PoisonRequest
from router.job import Delta, Job
from router.model import Ask, Message, Prompt
from router.quarantine import APART_S, KEEP_S, MAX_ENTRIES, Quarantine
from router.table import META
from tests.answering import answer
from tests.fake_routes import FakeRoutes
from tests.fakes import (
    DIRECT,
    JOB,
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

POISON = Prompt(messages=(Message("user", "poison"),))


def died(replica: str) -> ModelDied:
    return ModelDied(f"{replica} died", replica)


def decoded(models: Mapping[str, FakeModel], job: Job, quarantine: Quarantine, **changes: int) -> str:
    """As `answer`, with a quarantine that outlives the request."""
    decoder = Decoder(expert_table(**changes), models, FakeRoutes(), quarantine=quarantine)

    async def text() -> str:
        return "".join([item.text async for item in decoder.decode(job) if isinstance(item, Delta)])

    return in_virtual_time(text())


def test_two_replicas_that_die_of_a_prompt_keep_it_from_the_next():
    models = playing(meta=[[died("a")], [died("b")]])
    quarantine, poison = Quarantine(), replace(JOB, prompt=POISON)
    for _ in range(5):
        with pytest.raises(PoisonRequest, match="took replicas of meta down"):
            decoded(models, poison, quarantine, retries=9)
    assert num_calls(models) == {META: 2}, "five requests, and no third replica was lost"


def test_other_prompts_are_served_meanwhile():
    quarantine = Quarantine()
    quarantine.add(META, POISON)
    assert decoded(playing(meta=[[word("fine"), STOP]]), JOB, quarantine) == "fine"


def test_an_expert_that_dies_of_a_prompt_is_masked_for_it_and_the_meta_answers():
    models = playing(
        meta=[[to("chem")], [word("by meta"), STOP], [word("at once"), STOP]],
        chem=[[died("a")], [died("b")]],
    )
    quarantine, poison = Quarantine(), replace(JOB, prompt=POISON)
    assert decoded(models, poison, quarantine, retries=9) == "by meta"
    assert decoded(models, poison, quarantine, retries=9) == "at once"
    assert "chem" not in models[META].asks[2].allowed
    with pytest.raises(PoisonRequest):
        decoded(models, replace(DIRECT, prompt=POISON), quarantine)


@pytest.mark.parametrize(
    "deaths",
    [
        [[died("a")], [died("a")], [word("x"), STOP]],  # one death, noticed twice
        [[word("x"), died("a")], [word("y"), died("b")], [STOP]],  # it had gone on in between
    ],
)
def test_coincidences_are_no_poison(deaths: list[list[Item]]):
    quarantine = Quarantine()
    decoded(playing(meta=deaths), replace(JOB, prompt=POISON), quarantine, retries=2)
    assert quarantine.barred([META], POISON) == set()


def test_an_answer_is_resumed_a_bounded_number_of_times_even_if_it_makes_progress():
    lives: list[list[Item]] = [[word("x"), died(f"replica {number}")] for number in range(9)]
    with pytest.raises(ModelDied):
        answer(playing(meta=lives), max_resumes=3)


def test_a_prompt_is_let_out_after_a_while():
    now = [0.0]
    quarantine = Quarantine(clock=lambda: now[0])
    quarantine.add(META, POISON)
    now[0] = KEEP_S - 1
    assert quarantine.barred([META, "chem"], POISON) == {META}
    now[0] = KEEP_S
    assert quarantine.barred([META, "chem"], POISON) == set()


def test_what_another_router_found_counts_here():
    told: list[str] = []
    there, here = Quarantine(told.append), Quarantine()
    there.add("chem", POISON)
    here.learn(told[0])
    assert here.barred([META, "chem"], POISON) == {"chem"}
    assert "poison" not in told[0]


class Shared:
    """One replica after the other, each with all calls on it: who asks for poison takes down all of them."""

    def __init__(self) -> None:
        self.num_lost = 0

    def __call__(self, ask: Ask) -> Iterator[Item]:
        replica = self.num_lost
        yield Pause(1)
        if ask.prompt == POISON and replica == self.num_lost:
            self.num_lost += 1
        if replica < self.num_lost:
            yield died(f"replica {replica}")
        yield word("fine")
        yield STOP


def test_those_who_shared_a_replica_with_poison_are_not_taken_for_it():
    """All that was retried together died together again, and every one of them was kept out."""
    shared, quarantine = Shared(), Quarantine()
    models = {META: FakeModel(shared)}
    decoder = Decoder(expert_table(retries=9), models, FakeRoutes(), quarantine=quarantine, retry_pause_s=0)
    prompts = [Prompt(text="a"), POISON, Prompt(text="b")]

    async def text(prompt: Prompt) -> str:
        job = replace(JOB, prompt=prompt)
        return "".join([item.text async for item in decoder.decode(job) if isinstance(item, Delta)])

    async def all_of_them() -> list[str | BaseException]:
        return await asyncio.gather(*map(text, prompts), return_exceptions=True)

    first, poison, last = in_virtual_time(all_of_them())
    assert (first, last) == ("fine", "fine")
    assert isinstance(poison, PoisonRequest)
    assert shared.num_lost == 2
    assert [prompt for prompt in prompts if quarantine.barred([META], prompt)] == [POISON]


def test_copies_that_wait_are_not_let_at_the_next_replica():
    """Each of them took one down: only an answer that began later was kept out."""
    shared, quarantine = Shared(), Quarantine()
    decoder = Decoder(
        expert_table(retries=9),
        {META: FakeModel(shared)},
        FakeRoutes(),
        quarantine=quarantine,
        retry_pause_s=0,
    )

    async def ask() -> None:
        with pytest.raises(PoisonRequest):
            async for _ in decoder.decode(replace(JOB, prompt=POISON)):
                pass

    async def all_of_them() -> None:
        await asyncio.gather(*(ask() for _ in range(5)))

    in_virtual_time(all_of_them())
    assert shared.num_lost == 2


def test_many_that_cannot_be_let_in_one_by_one_are_no_poison():
    """Those who had waited long enough went on together, and a second accident kept all of them out."""
    quarantine = Quarantine()
    lives = iter("aabb")

    def dies_slowly(ask: Ask) -> list[Item]:
        life = next(lives, None)
        return [word("fine"), STOP] if life is None else [Pause(APART_S + 1), died(life)]

    decoder = Decoder(
        expert_table(retries=9), {META: FakeModel(dies_slowly)}, FakeRoutes(), quarantine=quarantine
    )
    prompts = [Prompt(text="a"), Prompt(text="b")]

    async def text(prompt: Prompt) -> str:
        job = replace(JOB, prompt=prompt)
        return "".join([item.text async for item in decoder.decode(job) if isinstance(item, Delta)])

    async def both() -> list[str | BaseException]:
        return await asyncio.gather(*map(text, prompts), return_exceptions=True)

    one, other = in_virtual_time(both())
    assert "fine" in (one, other), "whoever was not alone with the second replica is not blamed for it"


def test_a_suspect_does_not_wait_for_ever_for_one_that_hangs():
    quarantine = Quarantine()

    async def second() -> float:
        async with quarantine.watched(META, is_suspect=True), quarantine.watched(META, is_suspect=True):
            return asyncio.get_running_loop().time()

    assert in_virtual_time(second()) == pytest.approx(APART_S, abs=0.1)


def test_the_oldest_makes_room():
    quarantine = Quarantine()
    for number in range(MAX_ENTRIES + 1):
        quarantine.add(META, Prompt(text=str(number)))
    assert quarantine.barred([META], Prompt(text="0")) == set()
    assert quarantine.barred([META], Prompt(text="1")) == {META}


def test_half_a_surrogate_pair_is_a_prompt_like_any_other():
    quarantine = Quarantine()
    quarantine.add(META, Prompt(text="\ud800"))
    assert quarantine.barred([META], Prompt(text="\ud800")) == {META}

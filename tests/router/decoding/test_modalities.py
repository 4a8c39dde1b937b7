"""A conversation with a picture is answered only by models that can read it."""

from dataclasses import replace

import pytest

from router.decoding.decode import Decoder
from router.decoding.policy import Routing, Target
from router.errors import ContextLengthExceeded, ModelFailed, ModelUnavailable
from router.model_port import Finish, ModelChunk
from router.prompt import Media, Message, Prompt, joined
from router.table import META, ModelEntry
from tests.fakes.availability import FakeRoutes
from tests.fakes.models import (
    GENERATION,
    GONE,
    STOP,
    Item,
    Pause,
    distributes,
    expert_table,
    in_virtual_time,
    num_calls,
    playing,
    to,
    word,
)
from tests.support.answering import answer

PICTURE = Media("image", "data:image/png;base64,AAAA")
TEXT, MEDIA = joined(["What is", PICTURE, "?"])
ASKED = replace(GENERATION, prompt=Prompt((Message("user", TEXT, media=MEDIA),)))
SEES = ("text", "image")
EXPERTS = {
    "chem": ModelEntry(app="chem"),
    "law": ModelEntry(app="law", modalities=SEES),
    "weather": ModelEntry(app="weather", modalities=SEES),
}
SEEING = ModelEntry(app=META, modalities=SEES)


def probed(**probabilities: float) -> list[Item]:
    """What the meta says of a probe; no expert has more than a word."""
    return [ModelChunk(num_prompt_tokens=5, finish=Finish.STOP, distribution=probabilities)]


def test_the_likeliest_seeing_expert_answers_if_the_meta_cannot_see():
    models = playing(meta=[probed(law=0.01, weather=0.02)], weather=[[word("Rain."), STOP]])
    text, done = answer(models, ASKED, experts=EXPERTS)
    assert (text, num_calls(models)) == ("Rain.", {META: 1, "weather": 1})
    (decision,) = done.decisions
    assert (decision.allowed, decision.winner, decision.probability) == (("law", "weather"), "weather", 0.02)
    assert decision.masked == {"chem": "modality"}
    assert done.num_prompt_tokens == 5


def test_a_meta_that_cannot_see_reads_placeholders_and_the_expert_the_picture():
    models = playing(meta=[probed(law=0.1)], law=[[STOP]])
    answer(models, ASKED, experts=EXPERTS)
    (asked_of_meta,), (asked_of_law,) = models[META].asks, models["law"].asks
    assert asked_of_meta.prompt == Prompt((Message("user", "What is\n[image]\n?"),))
    assert asked_of_meta.probe
    assert asked_of_law.prompt == ASKED.prompt


def test_a_meta_that_sees_answers_itself_or_hands_over_to_experts_that_see():
    models = playing(meta=[[word("A "), to("law")]], law=[[word("cat."), STOP]])
    text, done = answer(models, ASKED, experts=EXPERTS, meta=SEEING)
    assert text == "A cat."
    (first,), (second,) = models[META].asks, models["law"].asks
    assert (first.allowed, first.probe) == (("law", "weather"), False)
    assert first.prompt == second.prompt == ASKED.prompt
    assert second.written == "A "
    assert done.decisions[0].masked == {"chem": "modality"}


def test_an_answer_is_resumed_on_another_replica_with_the_picture():
    models = playing(meta=[probed(law=0.1)], law=[[word("A "), GONE], [word("cat."), STOP]])
    text, _ = answer(models, ASKED, experts=EXPERTS)
    assert text == "A cat."
    assert [ask.prompt for ask in models["law"].asks] == [ASKED.prompt] * 2


def test_if_a_seeing_expert_fails_the_next_best_one_goes_on():
    models = playing(
        meta=[probed(law=0.1, weather=0.05), probed(weather=0.05)],
        law=[[word("A "), GONE], [GONE]],
        weather=[[word("dog."), STOP]],
    )
    text, done = answer(models, ASKED, experts=EXPERTS)
    assert (text, done.author) == ("A dog.", "weather")
    assert models["weather"].asks[0].written == "A "


def test_the_error_of_the_last_seeing_expert_is_the_clients():
    models = playing(meta=[probed(law=0.1)], law=[[ContextLengthExceeded("too long")]])
    only_law = replace(ASKED, routing=Routing(exclude=("weather",)))
    with pytest.raises(ContextLengthExceeded):
        answer(models, only_law, experts=EXPERTS)


def test_an_answer_that_no_longer_fits_the_meta_ends_when_its_expert_fails():
    """The meta cannot see, so it is asked for another expert; it would be asked again and again."""
    too_long = ContextLengthExceeded("the prompt has 4100 tokens, the window 4096", "messages")
    probes: list[list[Item]] = [probed(law=0.6, weather=0.2), [too_long]]
    models = playing(meta=probes, law=[[word("a"), ModelFailed("broken")]])
    text, done = answer(models, ASKED, experts=EXPERTS, retries=0)
    assert (text, done.finish) == ("a", Finish.LENGTH)
    assert num_calls(models) == {META: 2, "law": 1}


def test_if_no_seeing_expert_can_be_called_the_answer_fails():
    models = playing(meta=[probed()] * 2)
    with pytest.raises(ModelUnavailable, match="no expert that can read"):
        answer(models, ASKED, FakeRoutes(ready=("chem",)), experts=EXPERTS)
    assert [ask.allowed for ask in models[META].asks] == [()] * 2


def test_a_seeing_expert_that_is_asleep_is_waited_for_even_if_the_meta_would_answer_meanwhile():
    asleep = EXPERTS["law"].model_copy(update={"scales_to_zero": True, "cold_start": "meta"})
    models = playing(meta=[probed(law=0.1)], law=[[word("A cat."), STOP]])
    routes = FakeRoutes(ready=(), starts={"law": Pause(5.0)})
    text, _ = answer(models, ASKED, routes, experts={"law": asleep})
    assert text == "A cat."


def test_a_meta_that_cannot_see_does_not_go_on_after_an_expert():
    models = playing(meta=[probed(law=0.1)], law=[[word("A cat."), STOP]])
    _, done = answer(models, ASKED, experts=EXPERTS, after_expert="return")
    assert (done.finish, num_calls(models)) == (Finish.STOP, {META: 1, "law": 1})


def test_the_distribution_of_a_meta_that_cannot_see_names_the_expert_that_would_answer():
    models = playing()
    models[META].script = distributes(law=0.02, weather=0.01)
    decoder = Decoder(expert_table(experts=EXPERTS), models, FakeRoutes())
    found = in_virtual_time(decoder.distribution(ASKED))
    assert (found.chunk.expert, found.chunk.distribution) == ("law", {"law": 0.02, "weather": 0.01})
    assert found.masked == {"chem": "modality"}


def test_in_a_chain_the_next_expert_gets_the_picture_in_the_question():
    models = playing(
        meta=[
            probed(law=0.1),
            [ModelChunk(finish=Finish.EXPERT, expert="weather", distribution={"weather": 0.9})],
        ],
        law=[[word("A cat."), STOP]],
        weather=[[word("A dog."), STOP]],
    )
    text, done = answer(models, ASKED, experts=EXPERTS, after_expert="chain")
    assert (text, done.author) == ("A dog.", "weather")
    (message,) = models["weather"].asks[0].prompt.messages or ()
    before, picture, after = message.parts()
    assert (before, picture) == ("What is", replace(MEDIA[0], offset=message.media[0].offset))
    assert isinstance(after, str)
    assert after.startswith("?\n\nAnother assistant has answered:\n\nA cat.")


def test_a_forced_expert_gets_the_picture():
    models = playing(law=[[STOP]])
    answer(models, replace(ASKED, target=Target("law", routed=False)), experts=EXPERTS)
    assert models["law"].asks[0].prompt == ASKED.prompt

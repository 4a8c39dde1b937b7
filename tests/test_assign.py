"""Queries without labels go to the model that knows their answers best, and the file says why."""

import gc
import json
import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from experts.checkpoint import Checkpoint
from experts.errors import DataError
from experts.learn.assign import META, AssignedSet, assign_queries
from experts.learn.queries import Query
from experts.prompt import PromptRenderer
from tests.taught_meta import lesson
from tests.tiny_models import save_tiny_llama
from tests.tiny_tokenizers import CHATML, byte_level, sentencepiece_like

ANSWERS = {
    "roman": {"ten": "X", "five": "V", "six": "VI"},
    "morse": {"dot": "._.", "dash": "-_-", "beep": "._-"},
}
NO_SYSTEM = CHATML.replace(
    "{% for message in messages %}",
    "{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('none') }}{% endif %}",
)


def question_set(numbers: range) -> list[Query]:
    """Labelled: questions the experts were taught, some greeted; and the small talk of the taught meta."""
    queries = []
    for i in numbers:
        for name, answers in ANSWERS.items():
            word, answer = list(answers.items())[i % 3]
            greeting, written = ("hi! ", "Hello! ") if i % 4 == 0 else ("", "")
            queries.append(query(f"{greeting}{word} {i}?", f"that is {answer}", name, written))
        queries.append(query(f"nice day {i}", "yes, a very nice day"))
    return [replace(one, place=f"line {line}") for line, one in enumerate(queries, 1)]


def query(question: str, response: str, expert: str | None = None, written: str = "") -> Query:
    return Query(({"role": "user", "content": question},), expert, written, response)


def unlabelled(queries: list[Query]) -> list[Query]:
    return [replace(one, expert=None, labelled=False) for one in queries]


def save_expert(folder: Path, tokenizer: PreTrainedTokenizerFast, name: str, seed: int) -> Checkpoint:
    """An expert taught its own subject for a second."""
    renderer = PromptRenderer(tokenizer)
    model = save_tiny_llama(folder, tokenizer, seed=seed).train()
    own = [replace(one, expert=None) for one in question_set(range(100, 148)) if one.expert == name]
    inputs, labels = lesson(renderer, own)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for batch in torch.randint(len(inputs), (45, 16), generator=torch.Generator().manual_seed(seed)):
        adam.zero_grad()
        logits = model(inputs[batch]).logits[:, :-1].transpose(1, 2)
        torch.nn.functional.cross_entropy(logits, labels[batch, 1:]).backward()
        adam.step()
    model.save_pretrained(folder)
    return Checkpoint(str(folder))


@pytest.fixture(scope="module")
def checkpoints(taught_folder, tmp_path_factory) -> dict[str, Checkpoint]:
    """A meta and two experts, one with a tokenizer of its own that spells by the letter."""
    folder = tmp_path_factory.mktemp("experts")
    return {
        META: Checkpoint(str(taught_folder)),
        "roman": save_expert(folder / "roman", byte_level(NO_SYSTEM), "roman", 1),
        "morse": save_expert(folder / "morse", sentencepiece_like(), "morse", 2),
    }


QUESTIONS = question_set(range(12))


@pytest.fixture(scope="module")
def assigned(checkpoints) -> AssignedSet:
    return assign_queries(checkpoints, unlabelled(QUESTIONS))


def scores_of(assigned: AssignedSet) -> list[Mapping[str, float]]:
    return [one.nll_per_byte for one in assigned.assignments if one]


def test_every_query_goes_to_the_model_that_was_taught_it(assigned):
    assert [one.expert for one in assigned.queries] == [one.expert for one in QUESTIONS]
    assert assigned.queries == QUESTIONS
    assert [one.expert for one in assigned.assignments if one] == [one.expert for one in QUESTIONS]
    for scores in scores_of(assigned):
        assert list(scores) == [META, "roman", "morse"]


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_an_expert_wins_by_the_margin_over_the_meta_and_every_other(checkpoints, margin):
    wins = 0
    for one in assign_queries(checkpoints, unlabelled(QUESTIONS), margin=margin).assignments:
        assert one is not None
        assert one.margin == margin
        for name in ("roman", "morse"):
            others = [score for other, score in one.nll_per_byte.items() if other != name]
            wins += (won := one.expert == name)
            assert won == (one.nll_per_byte[name] + margin <= min(others) + 1e-9)
    assert wins > 0


def test_the_margin_itself_is_enough_and_a_hair_more_is_too_much(checkpoints, assigned):
    scores = scores_of(assigned)[0]
    lead = min(scores[META], scores["morse"]) - scores["roman"]
    known = question_set(range(1))  # labelled, so that no expert is left without a query
    for margin, winner in ((lead, "roman"), (math.nextafter(lead, 9), None)):
        # All the queries again, in the same batches: scores move in their last bits with the batch.
        found = assign_queries(checkpoints, [*unlabelled(QUESTIONS), *known], margin=margin)
        assert found.queries[0].expert == winner


def test_labelled_queries_are_kept_and_not_scored(checkpoints):
    # This label is wrong, and stands all the same.
    mislabelled = [replace(QUESTIONS[0], expert="morse"), replace(QUESTIONS[1], response="", expert="roman")]
    found = assign_queries(checkpoints, [*mislabelled, *unlabelled(QUESTIONS[2:])])
    assert found.queries == [*mislabelled, *QUESTIONS[2:]]
    assert found.assignments[:2] == [None, None]
    assert None not in found.assignments[2:]


def test_nothing_is_loaded_where_everything_is_labelled(tmp_path):
    nowhere = {name: Checkpoint(str(tmp_path / name)) for name in (META, "roman")}
    assert assign_queries(nowhere, QUESTIONS).assignments == [None] * len(QUESTIONS)


@dataclass(frozen=True)
class WatchedCheckpoint(Checkpoint):
    """Loads as any other, and notes how many of the models loaded before are still in memory."""

    loaded: list[weakref.ref[PreTrainedModel]] = field(default_factory=list)
    alive: list[int] = field(default_factory=list)

    def load(self) -> tuple[PreTrainedModel, PromptRenderer]:
        self.alive.append(sum(model() is not None for model in self.loaded))
        model, renderer = super().load()
        self.loaded.append(weakref.ref(model))
        return model, renderer


def test_one_model_is_in_memory_at_a_time(checkpoints):
    loaded: list[weakref.ref[PreTrainedModel]] = []
    alive: list[int] = []
    watched = {
        name: WatchedCheckpoint(one.source, loaded=loaded, alive=alive) for name, one in checkpoints.items()
    }
    gc.disable()
    try:
        assign_queries(watched, unlabelled(QUESTIONS))
    finally:
        gc.enable()
    assert alive == [0, 0, 0]


def test_progress_names_the_model_that_is_asked(checkpoints):
    reports: list[tuple[int, int, str]] = []
    assign_queries(checkpoints, unlabelled(QUESTIONS), progress=lambda *report: reports.append(report))
    finished = [what for done, total, what in reports if done == total == len(QUESTIONS)]
    assert finished == [f"likelihoods under {name}" for name in checkpoints]


def test_an_expert_that_beats_nobody_is_named_with_who_beats_it(checkpoints):
    twins = checkpoints | {"copy": checkpoints[META]}
    with pytest.raises(DataError) as caught:
        assign_queries(twins, unlabelled(QUESTIONS))
    message = str(caught.value)
    assert "of 36 unlabelled queries none goes to expert 'copy' (it beats the meta on 0; " in message
    assert "beats it most often, on" in message
    assert "lower the margin" in message
    assert "\n" not in message
    with pytest.raises(
        DataError,
        match="'roman' .*; nobody beats it.; nor to expert 'morse' .*roman beats it most often, on 1",
    ):
        assign_queries(checkpoints, unlabelled([QUESTIONS[0]]), margin=99)


def test_a_tie_is_nobodys_even_without_a_margin(checkpoints):
    twins = {f"roman{i}": checkpoints["roman"] for i in range(6)}
    with pytest.raises(DataError, match=r"expert 'roman0' .*; nor to expert 'roman4' .*; nor to 1 more; add"):
        assign_queries({META: checkpoints[META]} | twins, unlabelled(QUESTIONS[:1]), margin=0)


def test_who_beats_a_loser_is_counted(checkpoints, assigned):
    small_talk_and_roman = [
        one for one in unlabelled(QUESTIONS) if "nice" in one.response or "V" in one.response
    ]
    rows = [
        row
        for one, row in zip(QUESTIONS, scores_of(assigned), strict=True)
        if "nice" in one.response or "V" in one.response
    ]
    beaten = {rival: sum(row[rival] < row["morse"] for row in rows) for rival in (META, "roman")}
    rival = max(beaten, key=lambda name: beaten[name])
    beats_meta = sum(row["morse"] < row[META] for row in rows)
    with pytest.raises(DataError) as caught:
        assign_queries(checkpoints, small_talk_and_roman)
    expected = f"(it beats the meta on {beats_meta}; {rival} beats it most often, on {beaten[rival]})"
    assert f"of {len(rows)} unlabelled queries none goes to expert 'morse' {expected}" in str(caught.value)


def test_a_query_without_reference_and_label_is_refused_before_a_model_is_loaded(tmp_path):
    nowhere = {name: Checkpoint(str(tmp_path / name)) for name in (META, "roman")}
    bare = replace(QUESTIONS[3], expert=None, labelled=False, response="")
    with pytest.raises(DataError, match=r"line 4: no reference answer; add one, or an \"expert\""):
        assign_queries(nowhere, [*QUESTIONS, bare])


def test_what_the_meta_cannot_be_asked_is_refused_and_what_an_expert_cannot_is_not_its_own(
    checkpoints, tmp_path
):
    system = {"role": "system", "content": "be brief"}
    with_system = [replace(one, messages=(system, *one.messages)) for one in unlabelled(QUESTIONS[:3])]
    found = assign_queries(checkpoints, [*with_system, *QUESTIONS])
    scores = scores_of(found)
    assert [row["roman"] for row in scores] == [math.inf] * 3
    assert all(math.isfinite(row[META]) and math.isfinite(row["morse"]) for row in scores)
    assert found.queries[0].expert != "roman"
    found.save(tmp_path / "assigned.jsonl")
    row = json.loads((tmp_path / "assigned.jsonl").read_text().splitlines()[0])
    assert row["nll_per_byte"]["roman"] is None

    reversed_roles = {"roman": Checkpoint("not-reached"), META: checkpoints["roman"]}
    with pytest.raises(
        DataError, match="3 of 3 .*line 1: the meta cannot be asked: .*takes no system message"
    ):
        assign_queries(reversed_roles, with_system)


@pytest.mark.parametrize("margin", [-0.1, math.nan, math.inf])
def test_a_margin_that_is_no_distance_is_refused(checkpoints, margin):
    with pytest.raises(ValueError, match="margin .* is not a number of nats per byte from 0 up"):
        assign_queries(checkpoints, unlabelled(QUESTIONS), margin=margin)

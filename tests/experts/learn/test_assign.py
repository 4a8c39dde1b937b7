"""Unlabelled queries go to the model that knows their answers best, and the file has the scores."""

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
from tests.tiny.models import save_tiny_llama
from tests.tiny.taught_meta import lesson
from tests.tiny.tokenizers import CHATML, byte_level, sentencepiece_like

ANSWERS = {
    "roman": {"ten": "X", "five": "V", "six": "VI"},
    "morse": {"dot": "._.", "dash": "-_-", "beep": "._-"},
}
NO_TOOLS = CHATML.replace(
    "{% for message in messages %}",
    "{% for message in messages %}{{ raise_exception('no tools') if message.role == 'tool' }}",
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
    return [replace(query, place=f"line {line}") for line, query in enumerate(queries, 1)]


def query(question: str, response: str, expert: str | None = None, written: str = "") -> Query:
    return Query(({"role": "user", "content": question},), expert, written, response)


def unlabelled(queries: list[Query]) -> list[Query]:
    return [replace(query, expert=None, labelled=False) for query in queries]


def save_expert(folder: Path, tokenizer: PreTrainedTokenizerFast, name: str, seed: int) -> Checkpoint:
    """An expert taught its own subject for a second."""
    renderer = PromptRenderer(tokenizer)
    model = save_tiny_llama(folder, tokenizer, seed=seed).train()
    own = [replace(query, expert=None) for query in question_set(range(100, 148)) if query.expert == name]
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
        "roman": save_expert(folder / "roman", byte_level(NO_TOOLS), "roman", 1),
        "morse": save_expert(folder / "morse", sentencepiece_like(), "morse", 2),
    }


QUESTIONS = question_set(range(12))


@pytest.fixture(scope="module")
def assigned(checkpoints) -> AssignedSet:
    return assign_queries(checkpoints, unlabelled(QUESTIONS))


def scores_of(assigned: AssignedSet) -> list[Mapping[str, float]]:
    return [one.nll_per_byte for one in assigned.assignments if one]


def test_every_query_goes_to_the_model_that_was_taught_it(assigned):
    assert [query.expert for query in assigned.queries] == [query.expert for query in QUESTIONS]
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


def test_a_lead_of_exactly_the_margin_is_enough(checkpoints, assigned):
    scores = scores_of(assigned)[0]
    lead = min(scores[META], scores["morse"]) - scores["roman"]
    known = question_set(range(1))  # labelled, so that no expert is left without a query
    for margin, winner in ((lead, "roman"), (math.nextafter(lead, 9), None)):
        # All the queries again, in the same batches: scores move in their last bits with the batch.
        found = assign_queries(checkpoints, [*unlabelled(QUESTIONS), *known], margin=margin)
        assert found.queries[0].expert == winner


def test_labelled_queries_are_kept_and_not_scored(checkpoints):
    # A wrong label is kept too.
    mislabelled = [replace(QUESTIONS[0], expert="morse"), replace(QUESTIONS[1], response="", expert="roman")]
    found = assign_queries(checkpoints, [*mislabelled, *unlabelled(QUESTIONS[2:])])
    assert found.queries == [*mislabelled, *QUESTIONS[2:]]
    assert found.assignments[:2] == [None, None]
    assert None not in found.assignments[2:]


def test_no_model_is_loaded_if_all_queries_have_labels(tmp_path):
    nowhere = {name: Checkpoint(str(tmp_path / name)) for name in (META, "roman")}
    assert assign_queries(nowhere, QUESTIONS).assignments == [None] * len(QUESTIONS)


@dataclass(frozen=True)
class WatchedCheckpoint(Checkpoint):
    """Records at each load how many of the earlier models are still in memory."""

    loaded: list[weakref.ref[PreTrainedModel]] = field(default_factory=list)
    alive: list[int] = field(default_factory=list)

    def load(self, attention: str = "sdpa") -> tuple[PreTrainedModel, PromptRenderer]:
        self.alive.append(sum(model() is not None for model in self.loaded))
        model, renderer = super().load(attention)
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


def test_an_expert_without_queries_is_named_with_the_model_that_beats_it(checkpoints):
    duplicate_vectors = checkpoints | {"copy": checkpoints[META]}
    with pytest.raises(DataError) as caught:
        assign_queries(duplicate_vectors, unlabelled(QUESTIONS))
    message = str(caught.value)
    assert "none of 36 unlabelled queries goes to expert 'copy' (it beats the meta on 0; " in message
    assert "beats it most often, on" in message
    assert "lower the margin" in message
    assert "\n" not in message
    with pytest.raises(
        DataError,
        match="'roman' .*; no model beats it.; nor to expert 'morse' .*roman beats it most often, on 1",
    ):
        assign_queries(checkpoints, unlabelled([QUESTIONS[0]]), margin=99)


def test_a_tie_has_no_winner_even_without_a_margin(checkpoints):
    duplicate_vectors = {f"roman{i}": checkpoints["roman"] for i in range(6)}
    with pytest.raises(DataError, match=r"expert 'roman0' .*; nor to expert 'roman4' .*; nor to 1 more; add"):
        assign_queries({META: checkpoints[META]} | duplicate_vectors, unlabelled(QUESTIONS[:1]), margin=0)


def test_queries_lost_to_each_rival_are_counted(checkpoints, assigned):
    small_talk_and_roman = [
        query for query in unlabelled(QUESTIONS) if "nice" in query.response or "V" in query.response
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
    assert f"none of {len(rows)} unlabelled queries goes to expert 'morse' {expected}" in str(caught.value)


def test_a_query_without_reference_and_label_is_refused_before_a_model_is_loaded(tmp_path):
    nowhere = {name: Checkpoint(str(tmp_path / name)) for name in (META, "roman")}
    bare = replace(QUESTIONS[3], expert=None, labelled=False, response="")
    with pytest.raises(DataError, match=r"line 4: no reference answer; add one, or an \"expert\""):
        assign_queries(nowhere, [*QUESTIONS, bare])


def test_a_query_that_the_meta_cannot_take_is_refused_and_one_that_an_expert_cannot_take_is_not_its_own(
    checkpoints, tmp_path
):
    result = {"role": "tool", "content": "be brief"}
    with_tool = [replace(query, messages=(result, *query.messages)) for query in unlabelled(QUESTIONS[:3])]
    found = assign_queries(checkpoints, [*with_tool, *QUESTIONS])
    scores = scores_of(found)
    assert [row["roman"] for row in scores] == [math.inf] * 3
    assert all(math.isfinite(row[META]) and math.isfinite(row["morse"]) for row in scores)
    assert found.queries[0].expert != "roman"
    found.save(tmp_path / "assigned.jsonl")
    row = json.loads((tmp_path / "assigned.jsonl").read_text().splitlines()[0])
    assert row["nll_per_byte"]["roman"] is None

    reversed_roles = {"roman": Checkpoint("not-reached"), META: checkpoints["roman"]}
    with pytest.raises(DataError, match=r"(?s)3 of 3 .*line 1: the meta cannot be asked: .*no tools"):
        assign_queries(reversed_roles, with_tool)


@pytest.mark.parametrize("margin", [-0.1, math.nan, math.inf])
def test_a_negative_or_infinite_margin_is_refused(checkpoints, margin):
    with pytest.raises(ValueError, match="margin .* is not a number of nats per byte, 0 or more"):
        assign_queries(checkpoints, unlabelled(QUESTIONS), margin=margin)

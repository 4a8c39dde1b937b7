"""Evaluates a cluster: all methods compared, the served answers, and the report."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from matplotlib.text import Text

from cluster.client.batch_chat import Reply, ask_models
from cluster.config.cluster_config import ClusterConfig, load_config
from cluster.errors import AskError, ConfigError
from cluster.learning.evaluate import evaluate, served_judgement
from experts.errors import DataError, TokenMismatch
from experts.evaluate import Answers, Evaluation, evaluate_methods
from experts.evaluate.intervals import difference, estimate
from experts.evaluate.methods import DESCRIPTIONS, NO_EXPERT, RANDOM, SERVED, TOKENS
from experts.evaluate.pictures import accuracy_figure, confusion_figure, trigger_figure
from experts.evaluate.report import PICTURES, write_report
from experts.evaluate.threshold_sweep import TriggerPoint
from experts.learn import Query, States, compute_states, fit_tokens
from experts.learn.routing_judge import Judgement, RouteScores, judge
from experts.token import ExpertToken
from router.dialects.app import build_app
from router.model_port import Finish, ModelChunk, ModelRequest
from router.table import ModelEntry, RouteTable
from tests.fakes.models import GONE, FakeGateway, FakeModel, Item, served, writes
from tests.tiny.taught_meta import EXPERTS, WORDS, query_set

RIGHT = {"chemistry": "Fe", "morse": "-.-", "roman": "XIV"}
SMALL_TALK = "yes, a very nice day"


@pytest.fixture(scope="module")
def tokens(states: States) -> list[ExpertToken]:
    return fit_tokens(states).tokens


@pytest.fixture(scope="module")
def asked() -> list[Query]:
    """Held out, with right answers; two are not to be judged."""
    queries = [
        replace(query, answer=RIGHT.get(query.expert or "", SMALL_TALK)) for query in query_set(100, 8)
    ]
    return [replace(query, answer=None) if index in (1, 3) else query for index, query in enumerate(queries)]


@pytest.fixture(scope="module")
def asked_states(taught_model, renderer, asked) -> States:
    return compute_states(taught_model, renderer, asked)


def answers(asked: Sequence[Query]) -> Answers:
    """Experts know their own answers, the meta small talk; the generalist is right but for one query."""
    scored = [query for query in asked if query.answer is not None]
    right = [query.answer or "" for query in scored]
    alone = {
        name: [text if query.expert == name else "?" for query, text in zip(scored, right, strict=True)]
        for name in EXPERTS
    }
    alone["meta"] = [
        f"{text}!" if query.expert is None else "?" for query, text in zip(scored, right, strict=True)
    ]
    return Answers(alone, [*right[:-1], "?"], [Judgement(query.expert, query.expert) for query in asked])


@pytest.fixture(scope="module")
def evaluation(asked, asked_states, tokens) -> Evaluation:
    return evaluate_methods(asked, asked_states, tokens, answers=answers(asked), notes=["a note"])


def test_the_tokens_are_judged_as_decoding_decides(evaluation, asked_states, tokens):
    method = evaluation.method(TOKENS)
    assert list(method.judgements) == judge(asked_states, tokens)
    assert method.routes == RouteScores.of(method.judgements)
    assert method.decisions.estimate.mean >= 0.9
    assert sum(map(sum, evaluation.confusion)) == evaluation.num_queries == 32
    assert evaluation.num_scored == 30
    assert method.decisions.gain == difference([0], [0])


def test_methods_without_learning_have_their_expected_scores(evaluation, asked):
    num_general = sum(query.expert is None for query in asked)
    alone, oracle = evaluation.method("meta alone"), evaluation.method("oracle")
    assert alone.decisions.estimate.mean == num_general / len(asked)
    assert alone.routes.no_handover == 1
    assert oracle.decisions.estimate.mean == 1
    assert oracle.lenient.accuracy.estimate.mean == 1
    # Strictly, "yes, a very nice day!" is another answer than the one without the mark.
    assert oracle.strict.by_expert == {"chemistry": 1, "morse": 1, "roman": 1, NO_EXPERT: 0}
    random = evaluation.method(RANDOM)
    assert random.judgements == ()
    assert random.decisions.estimate.mean == pytest.approx(1 / 4)
    assert random.routes.false_trigger_rate == pytest.approx(3 / 4)
    assert random.lenient.accuracy.estimate.mean == pytest.approx(1 / 4)
    served = evaluation.method(SERVED)
    assert served.strict.accuracy.estimate.mean == pytest.approx(29 / 30)
    assert [method.name for method in evaluation.methods][0] == TOKENS
    assert {method.name for method in evaluation.methods} <= DESCRIPTIONS.keys()


def test_the_best_single_model_is_chosen_in_hindsight(evaluation, asked, asked_states, tokens):
    best = evaluation.method("best single")
    [(routed, others)] = [
        (judgement.routed, {j.routed for j in best.judgements}) for judgement in best.judgements[:1]
    ]
    assert others == {routed}
    means = [sum(query.expert == name for query in asked if query.answer) / 30 for name in EXPERTS]
    assert best.strict.accuracy.estimate.mean == max(means)
    without = evaluate_methods(asked, asked_states, tokens).method("best single")
    assert {judgement.routed for judgement in without.judgements} == {None}  # all are as frequent


def test_a_call_bias_has_the_same_effect_as_in_decoding(asked, asked_states, tokens):
    high = evaluate_methods(asked, asked_states, tokens, call_bias=1e4)
    low = evaluate_methods(asked, asked_states, tokens, call_bias=-1e4)
    assert high.method(TOKENS).routes.false_trigger_rate == 1
    assert low.method(TOKENS).routes.no_handover == 1
    assert high.sweep[-1] == TriggerPoint(1e4, 1, high.method(TOKENS).routes.accuracy)


def test_with_hand_overs_only_at_the_start_greeted_queries_stay_with_the_meta(asked, asked_states, tokens):
    judged = evaluate_methods(asked, asked_states, tokens, only_at_start=True).method(TOKENS).judgements
    greeted = [one for one, query in zip(judged, asked, strict=True) if query.written]
    assert greeted
    assert all(judgement.outcome != "right" for judgement in greeted)


def test_the_sweep_begins_without_hand_overs_and_contains_the_present_bias(evaluation):
    false = [point.false_trigger_rate for point in evaluation.sweep]
    assert (false[0], evaluation.sweep[0].accuracy) == (0, 0)
    assert false == sorted(false)
    assert false[-1] > 0.5
    now = next(point for point in evaluation.sweep if point.call_bias == evaluation.call_bias)
    routes = evaluation.method(TOKENS).routes
    assert (now.false_trigger_rate, now.accuracy) == (routes.false_trigger_rate, routes.accuracy)


def test_missing_and_unknown_labels_are_refused(asked, asked_states, tokens):
    with pytest.raises(
        DataError, match=r"(?s)8 of 32 rows.*line 1: unknown expert 'roman'; use one of chemistry, morse"
    ):
        evaluate_methods(asked, asked_states, tokens[:2])
    unlabelled = [*asked[:5], replace(asked[5], labelled=False, place="line 6"), *asked[6:]]
    with pytest.raises(DataError, match='line 6: has no "expert" to judge by'):
        evaluate_methods(unlabelled, asked_states, tokens)
    with pytest.raises(TokenMismatch, match="'morse'"):
        evaluate_methods(asked, asked_states, [*tokens[::2], replace(tokens[1], meta_fingerprint="0" * 16)])


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_intervals_contain_the_mean_and_change_sign_with_it(pairs):
    own, other = ([pair[side] for pair in pairs] for side in (0, 1))
    for found in (estimate(own), difference(own, other)):
        assert found.low <= found.mean + 1e-9
        assert found.mean <= found.high + 1e-9
    there, back = difference(own, other), difference(other, own)
    assert there.mean == pytest.approx(-back.mean)
    assert difference(own, own) == difference([0.0], [0.0])


def test_a_paired_difference_has_a_narrower_interval_than_its_parts():
    own = [float(index % 2) for index in range(200)]
    better = [max(value, float(index % 10 == 0)) for index, value in enumerate(own)]
    gain = difference(better, own)
    assert gain.mean == pytest.approx(0.1)
    assert 0.05 < gain.low < 0.1 < gain.high < 0.15
    assert estimate(own).high > estimate(better).low  # unpaired, they could not be told apart


def test_the_report_has_all_methods_and_its_json_is_valid(evaluation, tmp_path):
    write_report(evaluation, tmp_path)
    text = (tmp_path / "evaluation.md").read_text(encoding="utf-8")
    data = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    for method in evaluation.methods:
        assert f"| {method.name} | {method.decisions.estimate.mean:.3f} [" in text
        assert f"**{method.name}**: {method.description}" in text
    assert all(f"]({file})" in text for file in PICTURES)
    assert "Note: a note." in text
    assert data["num_scored"] == 30
    assert [one["name"] for one in data["methods"]] == [one.name for one in evaluation.methods]
    assert data["methods"][0]["judgements"][0] == {
        "expert": "chemistry",
        "routed": "chemistry",
        "early": False,
    }
    assert len(data["methods"][0]["strict"]["accuracy"]["values"]) == 30


def test_shares_without_queries_are_undefined(taught_model, renderer, asked, tokens, tmp_path):
    """Without general queries there are no false triggers, and without answers no grades."""
    known = [replace(query, answer=None) for query in asked if query.expert]
    states = compute_states(taught_model, renderer, known)
    evaluation = evaluate_methods(known, states, tokens, answers=replace(answers(known), served=[]))
    assert math.isnan(evaluation.method(TOKENS).routes.false_trigger_rate)
    write_report(evaluation, tmp_path, pictures=())
    text = (tmp_path / "evaluation.md").read_text(encoding="utf-8")
    assert "Left out: no query has a right answer." in text
    assert "| 0.000 | – |\n" in text
    data = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert data["methods"][0]["routes"]["false_trigger_rate"] is None
    assert data["methods"][0]["strict"] is None
    FigureCanvasAgg(trigger_figure(evaluation)).draw()


def with_many_experts(evaluation: Evaluation) -> Evaluation:
    names = tuple(f"expert-of-many-things-{index:02}" for index in range(12))
    counts = tuple(tuple(1000 if row == column else row for column in range(13)) for row in range(13))
    return replace(evaluation, names=names, confusion=counts)


def test_pictures_are_not_cut_off_even_with_many_experts(evaluation):
    many = with_many_experts(evaluation)
    for draw in (confusion_figure, accuracy_figure, trigger_figure):
        figure = draw(many)
        FigureCanvasAgg(figure).draw()  # which lays it out
        labels = {label.get_text() for label in figure.findobj(Text) if label.get_visible()}
        assert len(labels) > 10
        drawn = figure.get_tightbbox()  # inches
        width, height = figure.get_size_inches()
        assert drawn.x0 >= 0
        assert drawn.y0 >= 0
        assert drawn.x1 <= width
        assert drawn.y1 <= height


def cluster_file(folder: Path, meta: Path, tokens: Sequence[ExpertToken], **more: object) -> ClusterConfig:
    """A cluster.yaml with the taught meta; its experts' own models play no part where nothing is served."""
    for token in tokens:
        token.save(folder / f"{token.name}.safetensors")
    block = {"model": {"path": str(meta)}}
    experts = {token.name: {**block, "token": f"{token.name}.safetensors"} for token in tokens}
    (folder / "cluster.yaml").write_text(yaml.safe_dump({"meta": block, "experts": experts, **more}))
    return load_config(folder / "cluster.yaml")


@pytest.fixture
def config(tmp_path, taught_folder, tokens) -> ClusterConfig:
    return cluster_file(tmp_path, taught_folder, tokens)


def test_a_cluster_that_does_not_run_is_compared_with_all_baselines(config, asked, queries, tmp_path):
    seen: set[str] = set()
    evaluation = evaluate(
        config,
        asked,
        train=queries,
        folder=tmp_path / "report",
        cache=tmp_path / "cache",
        progress=lambda done, total, what: seen.add(what),
    )
    names = {method.name for method in evaluation.methods}
    assert names == DESCRIPTIONS.keys() - {SERVED, "prompted meta"}
    for name in (TOKENS, "probe", "kNN", "clusters"):
        assert evaluation.method(name).routes.accuracy >= 0.7, name
    # This meta's window is too short for the prompt that names all experts.
    assert any("the prompted meta is left out: line 1" in note for note in evaluation.notes)
    assert any("the cluster was not asked" in note for note in evaluation.notes)
    for file in PICTURES:
        image = imread(tmp_path / "report" / file)
        assert min(image.shape[:2]) > 400
        assert image.std() > 0.05
    assert "states" in seen
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    evaluate(config, asked, folder=tmp_path / "again", cache=tmp_path / "cache")
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    assert "so the baselines that learn" in (tmp_path / "again" / "evaluation.md").read_text(encoding="utf-8")


def test_experts_that_the_config_does_not_know_are_refused_before_anything_is_computed(
    config, asked, tmp_path
):
    unknown = replace(asked[0], expert="weather", place="line 40")
    for queries, train in (([unknown], None), (asked, [unknown])):
        with pytest.raises(DataError, match="line 40: unknown expert 'weather'"):
            evaluate(config, queries, train=train, folder=tmp_path / "report", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_cluster_without_experts_is_refused(tmp_path, taught_folder, asked):
    config = cluster_file(tmp_path, taught_folder, [])
    with pytest.raises(ConfigError, match="experts: none to evaluate"):
        evaluate(config, asked, folder=tmp_path / "report", cache=tmp_path / "cache")


def plays_meta(ask: ModelRequest) -> list[Item]:
    """Greets back, then hands over by the words of a question as far as it may; small talk it answers."""
    assert ask.prompt.messages
    question = ask.prompt.messages[-1].content
    greeting = (
        [ModelChunk("Hello! ", num_tokens=1, num_prompt_tokens=3)] if question.startswith("hi!") else []
    )
    expert = next((name for name, words in WORDS.items() if set(question.split()) & set(words.split())), None)
    if expert in ask.allowed:
        return [*greeting, ModelChunk(finish=Finish.EXPERT, expert=expert, probability=0.9)]
    return [*greeting, ModelChunk(SMALL_TALK, num_tokens=4), ModelChunk(finish=Finish.STOP)]


@pytest.fixture
def gateway() -> FakeGateway:
    scripts = {"meta": plays_meta} | {name: writes(answer) for name, answer in RIGHT.items()}
    experts = {name: ModelEntry(app=name) for name in EXPERTS}
    return FakeGateway(
        {name: FakeModel(script) for name, script in scripts.items()},
        ready=EXPERTS,
        table=RouteTable(
            table_version=1, name="generalist", meta=ModelEntry(app="meta"), experts=experts, retries=0
        ),
    )


@pytest.fixture
def url(gateway: FakeGateway) -> Iterator[str]:
    with served(build_app(gateway)) as address:
        yield address


def test_a_running_cluster_is_asked_for_the_answers_of_every_model(config, asked, url, gateway, tmp_path):
    evaluation = evaluate(config, asked, url=url, folder=tmp_path / "report", cache=tmp_path / "cache")
    served_method = evaluation.method(SERVED)
    assert served_method.decisions.estimate.mean == 1
    strict = {method.name: method.strict for method in evaluation.methods if method.strict}
    assert strict[SERVED].accuracy.estimate.mean == 1
    assert strict["oracle"].accuracy.estimate.mean == 1
    assert strict["meta alone"].by_expert == {**dict.fromkeys(EXPERTS, 0), NO_EXPERT: 1}
    # Alone each was asked the scored queries, and by the generalist its own.
    num_own = sum(query.expert == "roman" for query in asked)
    assert len(gateway.models["roman"].asks) == evaluation.num_scored + num_own
    assert "### By expert, lenient" in (tmp_path / "report" / "evaluation.md").read_text(encoding="utf-8")


def test_without_the_method_served_the_generalist_is_not_asked(config, asked, url, gateway, tmp_path):
    evaluation = evaluate(
        config,
        asked,
        url=url,
        methods=("meta alone", "oracle"),
        folder=tmp_path / "report",
        cache=tmp_path / "cache",
    )
    assert [method.name for method in evaluation.methods] == [TOKENS, "meta alone", "oracle"]
    assert evaluation.has_answers
    assert len(gateway.models["roman"].asks) == evaluation.num_scored


def test_served_hand_overs_are_judged_even_without_right_answers(config, asked, url, tmp_path):
    unanswered = [replace(query, answer=None) for query in asked]
    evaluation = evaluate(config, unanswered, url=url, folder=tmp_path / "report", cache=tmp_path / "cache")
    assert evaluation.method(SERVED).decisions.estimate.mean == 1
    assert not evaluation.has_answers
    assert any("no query has a right answer" in note for note in evaluation.notes)


async def test_replies_are_in_order_with_their_writers_at_any_concurrency(asked, url):
    models = ["generalist", "generalist/roman"]
    one_by_one = await ask_models(url, models, asked, concurrency=1)
    reports: list[tuple[int, int, str]] = []
    assert one_by_one == await ask_models(url + "/", models, asked, 7, lambda *report: reports.append(report))
    assert sorted(done for done, _, _ in reports) == list(range(1, 2 * len(asked) + 1))
    greeted = next(index for index, query in enumerate(asked) if query.written)
    expert = asked[greeted].expert
    assert one_by_one["generalist"][greeted] == Reply(
        f"Hello! {RIGHT[expert]}", ("meta", expert), (("meta", "Hello! "), (expert, RIGHT[expert]))
    )
    assert {reply.writers for reply in one_by_one["generalist/roman"]} == {("roman",)}


async def test_a_query_without_an_answer_is_named_and_not_asked_again(asked, gateway, url):
    broken = FakeModel(lambda ask: [GONE])
    gateway.models = {**gateway.models, "roman": broken}
    with pytest.raises(AskError, match=r"^line 9: http.* answers 503 for 'generalist/roman'"):
        await ask_models(url, ["generalist/roman"], [replace(asked[0], place="line 9")])
    assert len(broken.asks) == 1
    with pytest.raises(AskError, match=r"line 1: http://127.0.0.1:9 does not answer"):
        await ask_models("http://127.0.0.1:9", ["generalist"], asked)
    with pytest.raises(AskError, match="does not answer"):
        await ask_models("nowhere", ["generalist"], asked)


def test_a_served_hand_over_is_early_if_the_meta_had_more_to_write():
    query = Query((), "roman", "Hello! ")
    greeted = Reply("Hello! X", ("meta", "roman"), (("meta", "Hello! "), ("roman", "X")))
    assert served_judgement(query, greeted) == Judgement("roman", "roman")
    bare = Reply("X", ("meta", "roman"), (("roman", "X"),))
    assert served_judgement(query, bare).outcome == "early"
    silent = Reply("Hello!", ("meta", "roman"), (("meta", "Hello!"),))
    assert served_judgement(query, silent).outcome == "right"
    kept = Reply("Hello! X", ("meta",), (("meta", "Hello! X"),))
    assert served_judgement(query, kept).outcome == "none"

"""However many keys and experts there are, a metric keeps a bounded number of series."""

from __future__ import annotations

from router.decisions import metrics as m
from router.decisions.metrics import MAX_SERIES, OTHER, BoundedMetrics, Metric
from router.decisions.recent_answers import RecentAnswer, RecentAnswers
from tests.fakes.metrics import CountedMetrics


def test_ten_thousand_keys_and_a_thousand_experts_do_not_grow_memory():
    found = CountedMetrics()
    metrics = BoundedMetrics(found)
    for i in range(10_000):
        metrics.add(m.COMPLETION_TOKENS, 2, {"model": f"expert-{i % 1000}", "key": f"key-{i}"})
        metrics.add(m.MASKED, 1, {"expert": f"expert-{i % 2000}", "reason": "asleep"})
    for metric, value, tags in ((m.COMPLETION_TOKENS, 2, ("model", "key")), (m.MASKED, 1, ("expert",))):
        series = found.series(metric)
        assert len(series) == MAX_SERIES + 1
        assert sum(series.values()) == 10_000 * value
        assert sum(value for key, value in series.items() if OTHER in key) > 0
        assert metric.tags == tags


def test_values_that_are_few_by_their_nature_stay():
    found = CountedMetrics()
    metrics = BoundedMetrics(found, max_series=1)
    metrics.add(m.MASKED, 1, {"expert": "law", "reason": "asleep"})
    metrics.add(m.MASKED, 1, {"expert": "chem", "reason": "failed"})
    metrics.add(m.MASKED, 1, {"expert": "law", "reason": "asleep"})
    assert found.series(m.MASKED) == {("law", "asleep"): 2, (OTHER, "failed"): 1}


def test_the_names_of_metrics_differ_and_begin_alike():
    names = [metric.name for metric in m.METRICS]
    assert len({*names}) == len(names)
    assert all(name.startswith("etr_") and not name.endswith("_total") for name in names)
    assert {value for value in vars(m).values() if isinstance(value, Metric)} == {*m.METRICS}


def test_only_the_latest_answers_are_remembered():
    answers = RecentAnswers(max_answers=100)
    for i in range(1000):
        answers.add(f"chatcmpl-{i}", RecentAnswer("", None))
    assert len(answers) == 100
    assert answers.find("chatcmpl-899") is None
    assert answers.find("chatcmpl-900") == RecentAnswer("", None)

"""Common routers, learned from the same states as the tokens, to compare them with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.neighbors import KNeighborsClassifier  # type: ignore[import-untyped]
from sklearn.pipeline import Pipeline, make_pipeline  # type: ignore[import-untyped]
from sklearn.preprocessing import StandardScaler, normalize  # type: ignore[import-untyped]
from torch import Tensor

from experts.evaluate.state_rows import experts_of, judge_queries, only_first_rows
from experts.learn.hidden_states import Progress, States
from experts.learn.routing_judge import Judgement, judge_rows

NUM_NEIGHBOURS = 5
PENALTIES = (1.0, 0.1, 0.01, 10.0)  # ties go to the first; 1.0 is scikit-learn's default
CLUSTERS_PER_LABEL = 8
_MIN_QUERIES_PER_CLUSTER = 5
_VALIDATION_STRIDE = 5
_MAX_STEPS = 5000

Floats = NDArray[np.float32]


def judge_baselines(
    train: States,
    test: States,
    *,
    only_at_start: bool = False,
    methods: Collection[str] = ("kNN", "probe", "clusters"),
    progress: Progress = lambda done, total, what: None,
) -> dict[str, list[Judgement]]:
    """The judgements of those of kNN, probe and clusters that are among `methods` on the queries of `test`,
    after learning from `train`.

    kNN and probe learn from the same rows as the tokens, unweighted, although far more rows are words than
    hand-overs: with other weights they would solve another problem. Each labels every row, and the first row
    labelled with an expert hands over. Clusters see a query's first row only.
    """
    judges: Mapping[str, Callable[[States, States], list[Judgement]]] = {
        "kNN": partial(_judge_rows, knn_labels, only_at_start),
        "probe": partial(_judge_rows, probe_labels, only_at_start),
        "clusters": _judge_clusters,
    }
    wanted = [name for name in judges if name in methods]
    judged = {}
    for number, name in enumerate(wanted):
        progress(number, len(wanted), "baselines")
        judged[name] = judges[name](train, test)
    progress(len(wanted), len(wanted), "baselines")
    return judged


def probe_labels(train: States, test: States) -> Tensor:
    """Multinomial logistic regression on standardised hidden states.

    To be a fair baseline it chooses its penalty from PENALTIES: the one with the most right decisions
    on every fifth training query, after learning from the rest.
    """
    validation = list(range(0, train.num_queries, _VALIDATION_STRIDE))
    rest = sorted(set(range(train.num_queries)) - set(validation))
    if not rest:
        return _predicted(_probe(PENALTIES[0]), train, test)
    learned_from, judged = train.of_queries(rest), train.of_queries(validation)

    def num_right(penalty: float) -> int:
        labels = _predicted(_probe(penalty), learned_from, judged)
        judgements = judge_rows(judged, labels, train.expert_names)
        return sum(judgement.is_right for judgement in judgements)

    return _predicted(_probe(max(PENALTIES, key=num_right)), train, test)


def knn_labels(train: States, test: States) -> Tensor:
    """The most frequent label among the nearest rows by cosine. Few, as an expert may have few queries."""
    num_neighbours = min(NUM_NEIGHBOURS, len(train))
    model = KNeighborsClassifier(num_neighbours, metric="cosine", algorithm="brute")
    return _predicted(model, train, test)


def cluster_experts(train: States, test: States) -> list[str | None]:
    """Clusters queries by their first hidden state, normalised to unit length.

    Each cluster has the most frequent label of its training queries.
    After Avengers (arXiv 2505.19797), with the meta as the embedder and labels instead of measured answers.
    """
    points, labels = _first_states(train), experts_of(train)
    # More clusters than labels, as an expert has several kinds of question; but not one per query.
    num_clusters = min(
        CLUSTERS_PER_LABEL * (len(train.expert_names) + 1),
        max(1, len(points) // _MIN_QUERIES_PER_CLUSTER),
        len(np.unique(points, axis=0)),
    )
    model = KMeans(num_clusters, n_init=4, random_state=0).fit(points)
    members: list[list[str | None]] = [[] for _ in range(num_clusters)]
    for cluster, label in zip(model.labels_, labels, strict=True):
        members[cluster].append(label)
    label_of = [_most_frequent(group) for group in members]
    return [label_of[cluster] for cluster in model.predict(_first_states(test))]


def _judge_rows(
    learn: Callable[[States, States], Tensor], only_at_start: bool, train: States, test: States
) -> list[Judgement]:
    labels = learn(train, test)
    kept = only_first_rows(test, labels) if only_at_start else labels
    return judge_rows(test, kept, train.expert_names)


def _judge_clusters(train: States, test: States) -> list[Judgement]:
    return judge_queries(experts_of(test), cluster_experts(train, test))


def _probe(penalty: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=_MAX_STEPS))


def _predicted(model: KNeighborsClassifier | Pipeline, train: States, test: States) -> Tensor:
    labels = train.expert.numpy()
    if (labels == labels[0]).all():  # a classifier refuses to learn a single label
        return torch.full((len(test),), int(labels[0]))
    model.fit(train.hidden.numpy(), labels)
    return torch.from_numpy(model.predict(test.hidden.numpy()))


def _first_states(states: States) -> Floats:
    points: Floats = normalize(states.hidden[states.first_rows].numpy())
    return points


def _most_frequent(labels: Sequence[str | None]) -> str | None:
    """Ties go to no expert, then to the first name, so the order of the labels does not matter."""
    return max(sorted(set(labels), key=lambda label: label or ""), key=labels.count)

"""Routers learned from the same states as the tokens, by what anybody would try first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.neighbors import KNeighborsClassifier  # type: ignore[import-untyped]
from sklearn.pipeline import Pipeline, make_pipeline  # type: ignore[import-untyped]
from sklearn.preprocessing import StandardScaler, normalize  # type: ignore[import-untyped]
from torch import Tensor

from experts.evaluate.rows import experts_of, first_rows, judge_queries, only_first_rows
from experts.learn.route import Judgement, judge_rows
from experts.learn.states import States

NUM_NEIGHBOURS = 5
PENALTIES = (1.0, 0.1, 0.01, 10.0)  # of equals the first, which is scikit-learn's own
CLUSTERS_PER_LABEL = 8
_MIN_QUERIES_PER_CLUSTER = 5
_KEPT_BACK_EVERY = 5
_MAX_STEPS = 5000

Floats = NDArray[np.float32]


def judge_baselines(
    train: States, test: States, *, only_at_start: bool = False
) -> dict[str, list[Judgement]]:
    """What probe, kNN and clusters, learned from `train`, make of the queries of `test`.

    Probe and kNN see the very rows that tokens are learned from, far more words than hand-overs among
    them, unweighted: a baseline that is told of another balance would be judged by another problem. Each
    labels every row, and the first label that is an expert's hands over. Clusters see a query's first row.
    """
    judged = {}
    for name, learn in {"kNN": knn_labels, "probe": probe_labels}.items():
        labels = learn(train, test)
        kept = only_first_rows(test, labels) if only_at_start else labels
        judged[name] = judge_rows(test, kept, train.expert_names)
    return judged | {"clusters": judge_queries(experts_of(test), cluster_experts(train, test))}


def probe_labels(train: States, test: States) -> Tensor:
    """Multinomial logistic regression on standardised hidden states.

    The strength of its penalty is the one of PENALTIES that decides most queries rightly of every fifth
    training query, kept back; so that the probe is no straw man.
    """
    kept_back = list(range(0, train.num_queries, _KEPT_BACK_EVERY))
    rest = sorted(set(range(train.num_queries)) - set(kept_back))
    if not rest:
        return _predicted(_probe(PENALTIES[0]), train, test)
    learned_from, judged = train.of_queries(rest), train.of_queries(kept_back)

    def num_right(penalty: float) -> int:
        labels = _predicted(_probe(penalty), learned_from, judged)
        outcomes = judge_rows(judged, labels, train.expert_names)
        return sum(one.outcome == ("right" if one.expert else "none") for one in outcomes)

    return _predicted(_probe(max(PENALTIES, key=num_right)), train, test)


def knn_labels(train: States, test: States) -> Tensor:
    """The most frequent label among the rows nearest by cosine; few, as experts may have few queries."""
    num_neighbours = min(NUM_NEIGHBOURS, len(train))
    model = KNeighborsClassifier(num_neighbours, metric="cosine", algorithm="brute")
    return _predicted(model, train, test)


def cluster_experts(train: States, test: States) -> list[str | None]:
    """Queries clustered by their first hidden state, unit length; each cluster goes to one label.

    That label is the most frequent among the cluster's training queries. In the manner of Avengers (arXiv
    2505.19797), with the meta itself as the embedder and labels in place of measured answers.
    """
    points, labels = _first_states(train), experts_of(train)
    # More clusters than labels, as one expert has several kinds of question; but not one for each query.
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


def _probe(penalty: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=_MAX_STEPS))


def _predicted(model: KNeighborsClassifier | Pipeline, train: States, test: States) -> Tensor:
    labels = train.expert.numpy()
    if (labels == labels[0]).all():  # nothing to tell apart, which a classifier refuses to learn
        return torch.full((len(test),), int(labels[0]))
    model.fit(train.hidden.numpy(), labels)
    return torch.from_numpy(model.predict(test.hidden.numpy()))


def _first_states(states: States) -> Floats:
    points: Floats = normalize(states.hidden[first_rows(states)].numpy())
    return points


def _most_frequent(labels: Sequence[str | None]) -> str | None:
    """Of equals the one that comes first by name, nobody before all: a choice that no order changes."""
    return max(sorted(set(labels), key=lambda label: label or ""), key=labels.count)

"""From labelled queries to what tokens are learned from: texts of the meta are added, and states computed.

Imports torch.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.config.cluster_config import ClusterConfig
from cluster.learning.checkpoints import KeptCheckpoint, checkpoint_of
from cluster.learning.learned_set import keep_learned_set
from cluster.learning.meta_texts import MetaWriter
from cluster.learning.negatives import general_questions
from cluster.learning.options import LearnOptions
from cluster.learning.own_answers import with_own_answers
from cluster.learning.paraphrases import paraphrases
from cluster.learning.query_sets import Warn
from cluster.learning.state_cache import cached_states, meta_folder
from experts.learn.hidden_states import Progress, States
from experts.learn.neighbours import near_experts
from experts.learn.queries import Query, dataset_digest


@dataclass(frozen=True)
class TrainingSet:
    """`queries`: the data first, with the meta's own answers. `states`: of the queries.

    `num_left_out`: how many general questions of the meta are not among the queries, because an expert
    might be meant.
    """

    queries: list[Query]
    states: States
    states_folder: Path
    num_left_out: int

    def num_from(self, origin: str) -> int:
        return sum(query.origin == origin for query in self.queries)


def training_set(
    config: ClusterConfig, data: Sequence[Query], options: LearnOptions, progress: Progress, warn: Warn
) -> TrainingSet:
    """Adds general questions, own answers and paraphrases of the meta, as `options` say. Computes the states.

    Raises:
        ConfigError: a query does not fit the meta, or a folder holds other states or cannot be written.
        ExpertsError: the meta cannot be loaded or used.
    """
    meta = KeptCheckpoint.of(checkpoint_of(config.meta))
    writer = MetaWriter(config, options, meta, progress, warn)
    asked = with_own_answers([*data, *general_questions(data, writer)], writer)
    queries = [*asked, *paraphrases(asked, writer)]
    states, folder = cached_states(config, meta, queries, options, progress)
    found = _without_doubtful(queries, states, folder)
    keep_learned_set(options.states or meta_folder(config), data, found.queries)
    del meta, writer
    gc.collect()  # hooks make reference cycles, and the fit needs the memory now
    return found


def _without_doubtful(queries: Sequence[Query], states: States, folder: Path) -> TrainingSet:
    """Leaves out the meta's general questions that look most like an expert's query: they may be ones.

    General queries of the data stay, however alike they look: a person has labelled them.
    """
    near = near_experts(states, queries)
    kept = [i for i, query in enumerate(queries) if query.origin != "meta" or not near[i]]
    chosen = [queries[i] for i in kept]
    if len(kept) < len(queries):
        states = replace(states.of_queries(kept), dataset_digest=dataset_digest(chosen))
    return TrainingSet(chosen, states, folder, len(queries) - len(kept))

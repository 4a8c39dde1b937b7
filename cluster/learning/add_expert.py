"""Adds one expert to a cluster: learns its token, measures its effect on routing, and writes the files.

Imports torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.config.api_keys import check_keys_file
from cluster.config.cluster_config import ClusterConfig, check_config
from cluster.config.config_editor import add_expert, with_expert
from cluster.config.expert_tokens import load_tokens
from cluster.config.routing import RoutingConfig
from cluster.errors import ConfigError, ExpertRefused
from cluster.learning.checkpoints import default_device
from cluster.learning.expert_data import expert_data
from cluster.learning.labels import LabelledSet
from cluster.learning.learn import save_tokens
from cluster.learning.new_expert import NewExpert
from cluster.learning.options import ExpertQueries, LearnOptions
from cluster.learning.query_sets import Warn, data_errors_named
from cluster.learning.training_set import TrainingSet, training_set
from cluster.yaml_files.reader import parse_yaml
from experts.evaluate.false_handovers import GeneralKind, general_kinds
from experts.evaluate.threshold_sweep import TokenRouter
from experts.learn import Query
from experts.learn.hidden_states import Progress, States
from experts.learn.learn import learn_tokens, require_labels
from experts.learn.routing_judge import Judgement, MidAnswerCounts, RouteScores, judge
from experts.learn.split import split_queries
from experts.token import ExpertToken


@dataclass(frozen=True)
class AdditionTrial:
    """The effect of the new expert's token on routing. Nothing is written yet.

    `before` and `after` judge every held-out query without and with the token; `kinds` are those of the same
    queries. `incumbents` are the experts that the cluster has already.
    """

    new: NewExpert
    token: ExpertToken
    incumbents: tuple[str, ...]
    before: list[Judgement]
    after: list[Judgement]
    kinds: list[GeneralKind | None]
    mid_answer: MidAnswerCounts
    labelled: LabelledSet
    training: TrainingSet

    @property
    def unchecked(self) -> list[str]:
        """Incumbents without a held-out query: what they lose to the new expert is unknown."""
        return [name for name in self.incumbents if not self.num_queries(name)]

    def num_queries(self, name: str) -> int:
        """Held-out queries of this expert."""
        return sum(judgement.expert == name for judgement in self.after)

    def accuracy(self, name: str) -> tuple[float, float]:
        """Share of the expert's queries that are handed to it, before and after; nan if it has none."""
        return RouteScores.of(self.before, name).accuracy, RouteScores.of(self.after, name).accuracy

    def require_harmless(self, tolerance: float) -> None:
        """Raises ExpertRefused if an incumbent loses more accuracy than `tolerance`, or the new expert gets
        none of its queries."""
        self._require_chosen()
        losses = {name: self._loss(name) for name in self.incumbents if self.num_queries(name)}
        worst = max(losses, key=lambda name: losses[name], default=None)
        if worst is None or losses[worst] <= tolerance + 1e-9:  # 0.980 - 0.975 is a little over 0.005
            return
        before, after = self.accuracy(worst)
        raise ExpertRefused(
            f"expert '{self.new.name}' takes queries from '{worst}': its accuracy would fall from "
            f"{before:.3f} to {after:.3f} on {self.num_queries(worst)} held-out queries, more than the "
            f"tolerance of {tolerance:g}; add queries of both that tell them apart, learn all experts "
            "together with `etr learn`, or raise --tolerance; nothing was written"
        )

    def _loss(self, name: str) -> float:
        before, after = self.accuracy(name)
        return before - after

    def _require_chosen(self) -> None:
        name, num_queries = self.new.name, self.num_queries(self.new.name)
        if not num_queries:
            raise ExpertRefused(
                f"expert '{name}' has no held-out query to judge it by; give at least two different "
                "questions for it, or a larger --held-out; nothing was written"
            )
        if self.accuracy(name)[1]:
            return
        routed = Counter(judgement.routed for judgement in self.after if judgement.expert == name)
        winner, num_won = routed.most_common(1)[0]
        where = "stay with the meta" if winner is None else f"are handed to '{winner}'"
        raise ExpertRefused(
            f"expert '{name}' gets none of its {num_queries} held-out queries: most ({num_won}) {where}; "
            "add queries that only it should answer, or remove those that other experts should answer; "
            "nothing was written"
        )


def try_expert(
    config: ClusterConfig,
    new: NewExpert,
    wanted: ExpertQueries,
    learn_from: Callable[[Path], LearnOptions],
    *,
    save: bool,
    progress: Progress,
    warn: Warn,
) -> AdditionTrial:
    """Learns the new expert's token; the incumbents' tokens stay as they are.

    With `save`, or a file named for it, the labels found for unlabelled queries are written. `learn_from`:
    makes the options from the file with the data. `warn`: see `read_queries`.

    Raises:
        ConfigError: the name or the token's file is taken, the entry is not valid, or an incumbent's token
            or the data is unusable.
        ExpertsError: a model cannot be loaded or used.
    """
    incumbents = load_tokens(config)
    planned = _planned(config, new)  # before models, which take minutes to load
    labelled, options = expert_data(
        planned, new.name, incumbents, wanted, learn_from, save=save, progress=progress, warn=warn
    )
    _require_named(labelled.queries, new.name, options.data)
    training = training_set(config, labelled.queries, options, progress, warn)
    [token] = _learned(training, list(incumbents.values()), options, progress)
    return _judged(config, new, token, incumbents, labelled, training, options.held_out_share)


def write_expert(config: ClusterConfig, trial: AdditionTrial) -> None:
    """Writes the token's file, then the entry in cluster.yaml. Raises ConfigError."""
    # In this order: an entry that names a missing token makes the whole cluster.yaml invalid.
    save_tokens({trial.new.token: trial.token})
    add_expert(config.source, trial.new.name, trial.new.entry)


def _learned(
    training: TrainingSet, incumbents: Sequence[ExpertToken], options: LearnOptions, progress: Progress
) -> list[ExpertToken]:
    """The tokens of the experts that are no incumbents."""
    with data_errors_named(options.data):
        report = learn_tokens(
            training.states,
            training.queries,
            incumbents=incumbents,
            held_out_share=options.held_out_share,
            device=default_device(),
            progress=progress,
        )
    return report.tokens


def _judged(
    config: ClusterConfig,
    new: NewExpert,
    token: ExpertToken,
    incumbents: Mapping[str, ExpertToken],
    labelled: LabelledSet,
    training: TrainingSet,
    held_out_share: float,
) -> AdditionTrial:
    """Judges the token again, because its report leaves out this cluster's routing rules."""
    held_out = split_queries(training.queries, held_out_share)[1]
    states = training.states.of_queries(held_out)
    known, kinds = list(incumbents.values()), general_kinds(training.queries, training.states)
    before, _ = _as_served(states, known, config.routing)
    after, mid_answer = _as_served(states, [*known, token], config.routing)
    kinds = [kinds[index] for index in held_out]
    return AdditionTrial(new, token, tuple(incumbents), before, after, kinds, mid_answer, labelled, training)


def _as_served(
    states: States, tokens: Sequence[ExpertToken], routing: RoutingConfig
) -> tuple[list[Judgement], MidAnswerCounts]:
    """Judges with the cluster's own call bias, and only hand-overs that its `routing.when` allows."""
    if not len(states):
        return [], MidAnswerCounts(0, 0)
    if not tokens:
        return judge(states, []), MidAnswerCounts(0, 0)
    router = TokenRouter(states, tokens, only_at_start=routing.when == "start")
    return router.judge(routing.call_bias), router.count_mid_answer(routing.call_bias)


def _planned(config: ClusterConfig, new: NewExpert) -> ClusterConfig:
    """The cluster with the new expert in it, so that all problems of the entry are reported at once.

    Raises ConfigError, also if writing the token would overwrite a file.
    """
    text = with_expert(config.source, new.name, new.entry)
    planned = check_config(parse_yaml(text, config.source), config.source, tokens_required=False)
    check_keys_file(planned)
    _require_free_file(planned, new)
    return planned


def _require_free_file(planned: ClusterConfig, new: NewExpert) -> None:
    """Raises ConfigError if writing the token would overwrite a file."""
    field = f"{planned.source}: experts.{new.name}.token"
    for name, expert in planned.entries.items():
        if name != new.name and expert.token == planned.entries[new.name].token:
            raise ConfigError([f"{field}: {new.token} is the token of expert '{name}'; use --token"])
    # This config does not name the file, but another config in the same folder may, and be in service.
    if new.token.exists():
        raise ConfigError(
            [f"{field}: {new.token} exists and another cluster may use it; use --token, or remove it"]
        )


def _require_named(queries: Sequence[Query], name: str, data: Path) -> None:
    """The new expert needs queries of its own; incumbents do not."""
    labels = {query.expert for query in queries if query.expert is not None}
    with data_errors_named(data):
        require_labels(queries, labels | {name})

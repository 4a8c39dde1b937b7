"""Add one expert to a cluster: learn its token beside the others', see whom it harms, write it down.

Imports torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.checkpoints import checkpoints, default_device
from cluster.config import ClusterConfig, RoutingBlock, check_config
from cluster.errors import ConfigError, ExpertRefused
from cluster.labels import LabelledSet, in_data, labelled_queries
from cluster.learn import save_tokens
from cluster.learn_options import LearnOptions
from cluster.new_expert import NewExpert
from cluster.state_cache import cached_states
from cluster.tokens import load_tokens
from cluster.yaml_edit import add_expert, with_expert
from cluster.yaml_file import parse_yaml
from experts.errors import DataError, TokenError
from experts.evaluate.sweep import TokenRouter
from experts.learn import Query
from experts.learn.learn import learn_tokens, require_labels
from experts.learn.route import Judgement, RouteScores, judge
from experts.learn.split import split_queries
from experts.learn.states import Progress, States
from experts.token import ExpertToken


@dataclass(frozen=True)
class Trial:
    """What the newcomer's token does to routing; nothing is written yet.

    `before` and `after` judge every held-out query without and with it. `unchecked`: incumbents of whom the
    held-out queries have none.
    """

    new: NewExpert
    token: ExpertToken
    incumbents: tuple[str, ...]
    before: list[Judgement]
    after: list[Judgement]
    labelled: LabelledSet
    states_folder: Path

    @property
    def unchecked(self) -> list[str]:
        return [name for name in self.incumbents if not self.num_queries(name)]

    def num_queries(self, name: str) -> int:
        return sum(one.expert == name for one in self.after)

    def accuracy(self, name: str) -> tuple[float, float]:
        """Share of the expert's queries that were, and now are, handed to it; nan where there are none."""
        return RouteScores.of(self.before, name).accuracy, RouteScores.of(self.after, name).accuracy

    def require_harmless(self, tolerance: float) -> None:
        """Raises ExpertRefused if an incumbent's accuracy falls by more, or the newcomer's is 0."""
        self._require_called()
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

    def _require_called(self) -> None:
        name, num_queries = self.new.name, self.num_queries(self.new.name)
        if not num_queries:
            raise ExpertRefused(
                f"expert '{name}' has no held-out query to be judged by; give at least two different "
                "questions, or a larger --held-out; nothing was written"
            )
        if self.accuracy(name)[1]:
            return
        routed = Counter(one.routed for one in self.after if one.expert == name)
        taker, num_taken = routed.most_common(1)[0]
        where = "stay with the meta" if taker is None else f"are handed to '{taker}'"
        raise ExpertRefused(
            f"expert '{name}' gets none of its {num_queries} held-out queries, most ({num_taken}) {where}; "
            "add queries that only it should answer, or remove those that others should; nothing was written"
        )


def try_expert(
    config: ClusterConfig, new: NewExpert, options: LearnOptions, *, save: bool, progress: Progress
) -> Trial:
    """Learns the newcomer's token; the incumbents' stay as they are. `save` keeps the labels that it finds.

    Raises:
        ConfigError: the name is taken, the entry is wrong, an incumbent's token or the data is unusable.
        ExpertsError: a model cannot be loaded or used.
    """
    incumbents = load_tokens(config)
    # Everything that can be refused without a model comes first: models take minutes to load.
    planned = _planned(config, new)
    _require_own_file(planned, new)
    labelled = labelled_queries(options, checkpoints(planned), progress, must_win=[new.name], save=save)
    _require_known_labels(labelled.queries, new.name, incumbents, options.data)
    states, folder = cached_states(config, labelled.queries, options, progress)
    try:
        lesson = learn_tokens(
            states,
            labelled.queries,
            incumbents=list(incumbents.values()),
            held_out_share=options.held_out_share,
            device=default_device(),
            progress=progress,
        )
    except DataError as error:
        raise in_data(options.data, error) from error
    # The lesson's own judgements know nothing of this cluster's routing rules.
    held_out = split_queries(labelled.queries, options.held_out_share)[1]
    judged = states.of_queries(held_out) if held_out else None
    before = _judge_as_served(judged, list(incumbents.values()), config.routing)
    after = _judge_as_served(judged, [*incumbents.values(), *lesson.tokens], config.routing)
    return Trial(new, lesson.tokens[0], tuple(incumbents), before, after, labelled, folder)


def write_expert(config: ClusterConfig, trial: Trial) -> None:
    """Writes the token and then the entry, which names it. Raises ConfigError."""
    # In this order, because an entry whose token is not there makes the whole file invalid.
    save_tokens({trial.new.token: trial.token})
    add_expert(config.source, trial.new.name, trial.new.entry)


def _judge_as_served(
    states: States | None, tokens: Sequence[ExpertToken], routing: RoutingBlock
) -> list[Judgement]:
    """With the cluster's own call bias, and hand-overs only where it allows them."""
    if states is None:
        return []
    if not tokens:
        return judge(states, [])
    return TokenRouter(states, tokens, only_at_start=routing.when == "start").judge(routing.call_bias)


def _planned(config: ClusterConfig, new: NewExpert) -> ClusterConfig:
    """The cluster with the newcomer in it, so that all that is wrong with its entry is said at once."""
    text = with_expert(config.source, new.name, new.entry)
    return check_config(parse_yaml(text, config.source), config.source, tokens_required=False)


def _require_own_file(planned: ClusterConfig, new: NewExpert) -> None:
    """Raises ConfigError where another expert's token would be written over."""
    field = f"{planned.source}: experts.{new.name}.token"
    for name, expert in planned.experts.items():
        if name != new.name and expert.token == planned.experts[new.name].token:
            raise ConfigError([f"{field}: {new.token} is the token of expert '{name}'; use --token"])
    if not new.token.exists():
        return
    try:
        owner = ExpertToken.load(new.token).name
    except TokenError as error:
        raise ConfigError([f"{field}: {error}, or use --token"]) from error
    if owner != new.name:
        raise ConfigError([f"{field}: {new.token} is the token of an expert '{owner}'; use --token"])


def _require_known_labels(
    queries: Sequence[Query], name: str, incumbents: Collection[str], data: Path
) -> None:
    labels = {query.expert for query in queries if query.expert is not None}
    known = {name, *incumbents}
    try:
        # Incumbents may be without a query; only the newcomer may not.
        require_labels(queries, known if labels - known else labels | {name})
    except DataError as error:
        raise in_data(data, error) from error

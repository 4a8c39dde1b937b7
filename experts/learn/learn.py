"""From a meta and a query set to expert tokens."""

from __future__ import annotations

from collections.abc import Sequence

from experts.checkpoint import load_checkpoint
from experts.errors import DataError
from experts.learn.fit import DEFAULT_L2, fit_tokens
from experts.learn.queries import Query
from experts.learn.states import Progress, compute_states
from experts.token import ExpertToken


def learn_tokens(
    model_path: str,
    queries: Sequence[Query],
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "cpu",
    batch_size: int = 16,
    l2: float = DEFAULT_L2,
    expert_names: Sequence[str] | None = None,
    incumbents: Sequence[ExpertToken] = (),
    progress: Progress = lambda done, total, what: None,
) -> list[ExpertToken]:
    """Learns a token for every expert that `queries` name and `incumbents` do not hold, by name.

    `model_path` is a folder or a hub id; `dtype` "auto" or a torch dtype's name. `expert_names`, if given,
    are all the experts there should be: a query that names another is an error, and so is an expert that
    no query names.
    `progress` gets (done, total, what), `what` being "states" or "fit".
    Raises ModelLoadError, TemplateError, DataError, TokenMismatch.
    """
    if expert_names is not None:
        _require_labels(queries, expert_names)
    model, renderer = load_checkpoint(model_path, revision=revision, dtype=dtype, device_map=device)
    states = compute_states(model, renderer, queries, batch_size=batch_size, progress=progress)
    return fit_tokens(states, l2=l2, incumbents=incumbents, progress=progress).tokens


def _require_labels(queries: Sequence[Query], expert_names: Sequence[str]) -> None:
    labels = {query.expert for query in queries if query.expert is not None}
    if unknown := sorted(labels - set(expert_names)):
        places = [query.place for query in queries if query.expert == unknown[0]]
        raise DataError(
            f"{places[0]}: unknown expert '{unknown[0]}' ({len(places)} queries); "
            f"use one of {', '.join(sorted(expert_names))}"
        )
    if missing := sorted(set(expert_names) - labels):
        raise DataError(f'no query names expert \'{missing[0]}\'; add queries with "expert": "{missing[0]}"')

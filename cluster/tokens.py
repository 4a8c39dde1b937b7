"""The expert tokens a cluster.yaml names: read, checked against each other and the meta, packed to travel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from cluster.config import ClusterConfig, MetaBlock
from cluster.errors import ConfigError
from cluster.model_source import LocalModel, UriModel
from experts.errors import ModelLoadError, TokenError, TokenMismatch
from experts.fetch import fetched
from experts.token import ExpertToken, checkpoint_fingerprint


def inline_tokens(config: ClusterConfig) -> dict[str, str]:
    """Every expert's token as text, by expert name. Raises ConfigError as `load_tokens` does."""
    return {name: token.to_inline() for name, token in load_tokens(config).items()}


def load_tokens(config: ClusterConfig) -> dict[str, ExpertToken]:
    """Every expert's token, by expert name in sorted order.

    Raises:
        ConfigError: a token is unreadable, another expert's, the same as another's, or was made for another
            meta. The meta is looked at where its checkpoint lies here; its replica looks again.
    """
    tokens: dict[str, ExpertToken] = {}
    problems: list[str] = []
    for name, expert in config.experts.items():
        try:
            tokens[name] = ExpertToken.load(expert.token)
        except TokenError as error:
            problems.append(f"experts.{name}.token: {error}")
    problems += [*_misnamed(config, tokens), *_twins(tokens), *_of_another_meta(config.meta, tokens)]
    if problems:
        raise ConfigError([f"{config.source}: {problem}" for problem in problems])
    return {name: tokens[name] for name in sorted(tokens)}


def _misnamed(config: ClusterConfig, tokens: Mapping[str, ExpertToken]) -> Iterator[str]:
    for name, token in tokens.items():
        if token.name != name:
            path = config.experts[name].token
            yield f"experts.{name}.token: {path} is the token of expert '{token.name}'; correct the path"


def _twins(tokens: Mapping[str, ExpertToken]) -> Iterator[str]:
    """Two experts with one vector: the meta could never tell them apart."""
    first: dict[bytes, str] = {}
    for name, token in tokens.items():
        other = first.setdefault(token.vector.numpy().tobytes(), name)
        if other != name:
            yield f"experts.{name}.token: the same vector as expert '{other}'; run `etr learn` with both"


def _of_another_meta(meta: MetaBlock, tokens: Mapping[str, ExpertToken]) -> Iterator[str]:
    head = _head_of(meta)
    if head is None:
        # The checkpoint is not here to look at, but tokens of one meta have one head in common.
        first = next(iter(tokens.values()), None)
        head = (first.meta_name, first.meta_fingerprint, first.dim) if first else None
    for name, token in tokens.items():
        try:
            assert head is not None
            token.require_meta(*head)
        except TokenMismatch as error:
            yield f"experts.{name}.token: {error}"


def _head_of(meta: MetaBlock) -> tuple[str, str, int] | None:
    """Name, fingerprint and width of the meta's output head, if its checkpoint lies here."""
    folder = _folder_here(meta)
    if folder is None:
        return None
    try:
        found = checkpoint_fingerprint(folder)
    except ModelLoadError as error:
        raise ConfigError([f"meta.model: {error}"]) from error
    return (folder.name, *found) if found else None


def _folder_here(meta: MetaBlock) -> Path | None:
    """Nothing is fetched only to look at its head: a large model would take minutes."""
    if isinstance(meta.model, LocalModel):
        return meta.model.path
    return fetched(meta.model.uri) if isinstance(meta.model, UriModel) else None

"""The expert tokens that a cluster.yaml names: read, and checked against each other and the meta."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from cluster.config.cluster_config import ClusterConfig
from cluster.config.loaded_model import MetaConfig
from cluster.config.model_source import LocalModelConfig, UriModelConfig
from cluster.errors import ConfigError
from experts.adapter import adapted_fingerprint
from experts.errors import ModelLoadError, TokenError, TokenMismatch
from experts.fetch import fetched
from experts.token import ExpertToken, checkpoint_fingerprint
from router.chain_rules import CHAIN_STOP


def inline_tokens(config: ClusterConfig) -> dict[str, str]:
    """Every expert's token as text, by expert name, and that of `routing.chain.stop_token`.

    Raises ConfigError as `load_tokens` does.
    """
    tokens = {**load_tokens(config), **_stop_token(config)}
    return {name: token.to_inline() for name, token in tokens.items()}


def inline_shadows(config: ClusterConfig) -> dict[str, dict[str, str | None]]:
    """Every shadow's token as text, under the name of its entry, and the expert that it would replace.

    Raises ConfigError as `load_tokens` does.
    """
    shadows, problems = dict[str, ExpertToken](), list[str]()
    for name, shadow in config.shadows.items():
        try:
            token = ExpertToken.load(shadow.token)
        except TokenError as error:
            problems.append(f"experts.{name}.token: {error}")
            continue
        if token.name not in (name, shadow.replaces):
            problems.append(
                f"experts.{name}.token: {shadow.token} is the token of '{token.name}'; correct the path"
            )
        shadows[name] = replace(token, name=name)
    problems += _of_another_meta(config.meta, shadows)
    if problems:
        raise ConfigError([f"{config.source}: {problem}" for problem in problems])
    return {
        name: {"token": token.to_inline(), "replaces": config.shadows[name].replaces}
        for name, token in shadows.items()
    }


def load_tokens(config: ClusterConfig) -> dict[str, ExpertToken]:
    """Every expert's token, by expert name in sorted order.

    Raises:
        ConfigError: a token cannot be read, belongs to another expert, equals another token, or was made for
            another meta. The meta is checked here only if its checkpoint is on this machine; its replica
            checks again.
    """
    tokens: dict[str, ExpertToken] = {}
    problems: list[str] = []
    for name, expert in config.experts.items():
        try:
            tokens[name] = ExpertToken.load(expert.token)
        except TokenError as error:
            problems.append(f"experts.{name}.token: {error}")
    problems += [
        *_of_another_expert(config, tokens),
        *_duplicate_vectors(tokens),
        *_of_another_meta(config.meta, tokens),
    ]
    if problems:
        raise ConfigError([f"{config.source}: {problem}" for problem in problems])
    return {name: tokens[name] for name in sorted(tokens)}


def _stop_token(config: ClusterConfig) -> dict[str, ExpertToken]:
    """By its reserved name; empty if there is none."""
    path, field = config.routing.chain.stop_token, f"{config.source}: routing.chain.stop_token"
    if path is None:
        return {}
    try:
        token = ExpertToken.load(path)
    except TokenError as error:
        raise ConfigError([f"{field}: {error}"]) from error
    if token.name != CHAIN_STOP:
        raise ConfigError([f"{field}: {path} is the token of expert '{token.name}'; correct the path"])
    if found := list(_of_another_meta(config.meta, {CHAIN_STOP: token}, field)):
        raise ConfigError(found)
    return {CHAIN_STOP: token}


def _of_another_expert(config: ClusterConfig, tokens: Mapping[str, ExpertToken]) -> Iterator[str]:
    for name, token in tokens.items():
        if token.name != name:
            path = config.entries[name].token
            yield f"experts.{name}.token: {path} is the token of expert '{token.name}'; correct the path"


def _duplicate_vectors(tokens: Mapping[str, ExpertToken]) -> Iterator[str]:
    """The meta cannot distinguish two experts with the same vector."""
    first: dict[bytes, str] = {}
    for name, token in tokens.items():
        other = first.setdefault(token.vector.numpy().tobytes(), name)
        if other != name:
            yield f"experts.{name}.token: has the same vector as expert '{other}'; run `etr learn` with both"


def _of_another_meta(
    meta: MetaConfig, tokens: Mapping[str, ExpertToken], field: str = "experts.{name}.token"
) -> Iterator[str]:
    head = _head_of(meta)
    if head is None:
        # Without the checkpoint, the tokens can still be compared: all must be made for one output head.
        first = next(iter(tokens.values()), None)
        head = (first.meta_name, first.meta_fingerprint, first.dim) if first else None
    for name, token in tokens.items():
        try:
            assert head is not None
            token.require_meta(*head)
        except TokenMismatch as error:
            yield f"{field.format(name=name)}: {error}"


def _head_of(meta: MetaConfig) -> tuple[str, str, int] | None:
    """Name, fingerprint and width of the meta's output head, if its checkpoint is on this machine."""
    folder, adapter = _local_folder(meta), meta.model.adapter
    if folder is None or (adapter is not None and not Path(adapter).is_dir()):
        return None
    try:
        found = checkpoint_fingerprint(folder)
        if found is not None and adapter is not None:
            found = (adapted_fingerprint(found[0], Path(adapter)), found[1])
    except ModelLoadError as error:
        raise ConfigError([f"meta.model: {error}"]) from error
    return (folder.name, *found) if found else None


def _local_folder(meta: MetaConfig) -> Path | None:
    """The folder of the meta's checkpoint. It is not fetched for this, which could take minutes."""
    if isinstance(meta.model, LocalModelConfig):
        return meta.model.path
    return fetched(meta.model.uri) if isinstance(meta.model, UriModelConfig) else None

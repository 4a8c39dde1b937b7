"""The API keys that a cluster.yaml asks for, as digests for the route table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cluster.config.api_key_file import keys_from_env, load_keys, same_keys
from cluster.config.cluster_config import ClusterConfig
from cluster.errors import ConfigError
from router.api_key import ApiKey


def config_keys(config: ClusterConfig) -> tuple[ApiKey, ...]:
    """The keys of `http.keys_file`, then those of `http.keys_env`. Both are read again at each call.

    Raises:
        ConfigError: a source cannot be read or has no key, one key is in both sources, or a key permits an
            expert that the file does not have.
    """
    file_keys, env_keys = _file_keys(config), _env_keys(config)
    # A key of the environment has no limits, so the same key in the file would lose its own.
    problems = [f"http.keys_env: {problem}" for problem in same_keys([*file_keys, *env_keys])]
    _require_none(config, [*problems, *_unknown_experts(config, file_keys)])
    return (*file_keys, *env_keys)


def check_keys_file(config: ClusterConfig) -> None:
    """Check the keys of `http.keys_file` against the experts of `config`, without the environment.

    Raises:
        ConfigError: the file cannot be read or has no key, or a key permits an expert that does not exist.
    """
    _require_none(config, _unknown_experts(config, _file_keys(config)))


def _file_keys(config: ClusterConfig) -> tuple[ApiKey, ...]:
    return () if config.http.keys_file is None else load_keys(config.http.keys_file)


def _env_keys(config: ClusterConfig) -> tuple[ApiKey, ...]:
    return () if config.http.keys_env is None else keys_from_env(config.http.keys_env)


def _unknown_experts(config: ClusterConfig, keys: Iterable[ApiKey]) -> Iterator[str]:
    for key in keys:
        for expert in key.experts or ():
            if expert not in config.entries and expert not in config.embeddings:
                yield (
                    f"http.keys_file: key '{key.name}' permits expert '{expert}', which does not exist; "
                    "revoke the key, correct its experts, or add the expert"
                )


def _require_none(config: ClusterConfig, problems: Iterable[str]) -> None:
    found = [f"{config.source}: {problem}" for problem in problems]
    if found:
        raise ConfigError(found)

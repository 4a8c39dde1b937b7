"""The API keys that a cluster.yaml asks for, as the route table has them: digests, never a key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cluster.config import ClusterConfig
from cluster.errors import ConfigError
from cluster.keys import keys_from_env, load_keys, same_keys
from router.table import ApiKey


def config_keys(config: ClusterConfig) -> tuple[ApiKey, ...]:
    """Every key of `http.keys_file`, then of `http.keys_env`: read anew each time, so that none is missed.

    Raises:
        ConfigError: they cannot be read, there is none where there should be some, one key is in both, or one
            permits an expert that the file does not have.
    """
    found = list(_found(config))
    keys = tuple(key for _, key in found)
    # The variable's keys may do everything: whoever has such a key would have it past its limits.
    twice = (f"http.keys_env: {problem}" for problem in same_keys(keys))
    problems = [*twice, *_strangers(config, found)]
    if problems:
        raise ConfigError([f"{config.source}: {problem}" for problem in problems])
    return keys


def _found(config: ClusterConfig) -> Iterator[tuple[str, ApiKey]]:
    """Each key with the setting that it comes by."""
    http = config.http
    if http.keys_file is not None:
        yield from (("http.keys_file", key) for key in load_keys(http.keys_file))
    if http.keys_env is not None:
        yield from (("http.keys_env", key) for key in keys_from_env(http.keys_env))


def _strangers(config: ClusterConfig, found: Sequence[tuple[str, ApiKey]]) -> Iterator[str]:
    for where, key in found:
        for expert in key.experts or ():
            if expert not in config.experts:
                yield (
                    f"{where}: key '{key.name}' permits expert '{expert}', and there is none of that name; "
                    "correct the key or add the expert"
                )

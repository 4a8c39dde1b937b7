"""API keys: read from a file that holds their digests, or from an environment variable.

The file names each key. The key itself is in no file; only the client it was made for has it:

    keys:
      billing:
        sha256: 9f86d081…
        experts: [chemistry]         # if left out, every expert
        requests_per_minute: 600     # all limits hold for the whole cluster; if left out, no limit
        tokens_per_minute: 60000
        tokens_per_day: 2000000
        max_concurrent: 8
        priority: -1                 # served before keys with a higher number; if left out, 0
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from cluster.config.base import LoadContext, StrictConfig, problems
from cluster.errors import ConfigError
from cluster.yaml_files.editor import with_value, without_member
from cluster.yaml_files.locked_edit import edit_file
from cluster.yaml_files.reader import parse_yaml, read_text, read_yaml
from experts.names import EXPERT_NAME
from router.api.keys import digest_of
from router.api_key import ApiKey, ApiKeyLimits

# A shorter key that a person made up could be guessed from its digest.
MIN_KEY_LENGTH = 20
KEY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

_FILE_MODE = 0o600
_HEADER = (
    "# API keys of the cluster: digests only. `etr keys` edits this file; `etr apply` puts it into effect.\n"
)


class ApiKeyConfig(ApiKeyLimits, StrictConfig):
    """One key of a keys file."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Hex digest of the key's UTF-8 text.")
    experts: list[Annotated[str, Field(pattern=f"^{EXPERT_NAME.pattern}$")]] | None = Field(
        None, description="Experts that may answer requests with this key. By default every expert."
    )
    sees_usage: bool = Field(
        False, description="Whether the key may read what all keys have used; otherwise only its own usage."
    )


class ApiKeyFileConfig(StrictConfig):
    """A keys file, which `http.keys_file` names."""

    keys: dict[Annotated[str, Field(pattern=KEY_NAME)], ApiKeyConfig] | None = Field(
        None, description="The keys, by name. Logs show the name."
    )


def load_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file.

    Raises:
        ConfigError: one line per problem. A file without keys is one, because it would open the cluster.
    """
    keys = read_keys(path)
    if not keys:
        raise ConfigError(
            [
                f"{path}: keys: is empty, and without keys every client may send requests; make a key with "
                f"`etr keys create NAME --file {path}` or remove http.keys_file"
            ]
        )
    return keys


def keys_from_env(variable: str) -> tuple[ApiKey, ...]:
    """The comma-separated keys in an environment variable, named by position; they permit every expert.

    Raises:
        ConfigError: there is no key, or one is unsuitable. The message never has the key.
    """
    given = [key.strip() for key in os.environ.get(variable, "").split(",")]
    plain = [key for key in given if key]
    if not plain:
        raise ConfigError(
            [f"environment: {variable}: has no API key; set it to one or more keys, separated by commas"]
        )
    for number, key in enumerate(plain, start=1):
        _require_unguessable(key, f"environment: {variable}: key {number} of {len(plain)}")
    # No key of a file has a colon in its name, so the names of both sources differ.
    keys = tuple(
        ApiKey(name=f"env:{number}", sha256=digest_of(key)) for number, key in enumerate(plain, start=1)
    )
    _require_different(keys, f"environment: {variable}")
    return keys


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """`load_keys`, but a file without keys is allowed. Raises ConfigError."""
    if not path.exists():
        raise ConfigError([f"{path}: no such file; make it with `etr keys create NAME --file {path}`"])
    return _checked(read_yaml(path), path)


def same_keys(keys: Iterable[ApiKey]) -> Iterator[str]:
    """Yield a problem and its remedy for each key that has two names."""
    owners: dict[str, str] = {}
    for key in keys:
        owner = owners.setdefault(key.sha256, key.name)
        if owner != key.name:
            yield f"'{owner}' and '{key.name}' are the same key; remove one"


def create_key(path: Path, name: str, limits: Mapping[str, Any]) -> str:
    """Make a key, write its digest to the file, and return it. It is stored nowhere else.

    `limits`: fields of `ApiKeyConfig` other than the digest; None values are left out.

    Raises:
        ConfigError: the file has a key of that name, or it cannot be changed.
    """
    key = f"etr-{secrets.token_urlsafe(32)}"
    entry = {"sha256": digest_of(key)} | {
        field: limit for field, limit in limits.items() if limit is not None
    }
    edit_file(path, lambda: _checked_text(path, _with_key(path, name, entry)), _FILE_MODE)
    return key


def revoke_key(path: Path, name: str) -> None:
    """Remove a key from the file; everything else in it, comments too, stays as it is.

    Raises:
        ConfigError: the file has no key of that name, or it cannot be changed.
    """
    edit_file(path, lambda: _without_key(path, name), _FILE_MODE)


def _with_key(path: Path, name: str, entry: Mapping[str, Any]) -> str:
    if not path.exists():
        return _HEADER + yaml.safe_dump({"keys": {name: dict(entry)}}, sort_keys=False)
    if name in {known.name for known in read_keys(path)}:
        raise ConfigError([f"{path}: keys.{name}: exists already; revoke it first or choose another name"])
    return with_value(read_text(path), path, ("keys", name), dict(entry))


def _without_key(path: Path, name: str) -> str:
    known = [key.name for key in read_keys(path)]
    if name not in known:
        raise ConfigError([f"{path}: keys.{name}: there is no such key; keys: {', '.join(known) or 'none'}"])
    return without_member(read_text(path), path, ("keys", name))


def _checked_text(path: Path, text: str) -> str:
    _checked(parse_yaml(text, path), path)
    return text


def _checked(data: Any, path: Path) -> tuple[ApiKey, ...]:
    context = LoadContext(path.absolute().parent)
    try:
        file = ApiKeyFileConfig.model_validate({} if data is None else data, context=context)
    except ValidationError as error:
        raise ConfigError([f"{path}: {problem}" for problem in problems(error, data, context)]) from error
    keys = tuple(_api_key(name, entry) for name, entry in (file.keys or {}).items())
    _require_different(keys, str(path))
    return keys


def _api_key(name: str, entry: ApiKeyConfig) -> ApiKey:
    experts = None if entry.experts is None else tuple(entry.experts)
    return ApiKey(name=name, **{**entry.model_dump(), "experts": experts})


def _require_unguessable(key: str, where: str) -> None:
    if len(key) < MIN_KEY_LENGTH:
        raise ConfigError(
            [f"{where}: is shorter than {MIN_KEY_LENGTH} characters and could be guessed; use a random key"]
        )
    if not re.fullmatch(r"[!-~]+", key):
        raise ConfigError(
            [f"{where}: has characters that an HTTP header cannot carry; use letters and digits"]
        )


def _require_different(keys: Iterable[ApiKey], where: str) -> None:
    problems = [f"{where}: {problem}" for problem in same_keys(keys)]
    if problems:
        raise ConfigError(problems)

"""Where API keys come from: a file that holds their digests, or a variable of the environment.

The file names each key; the key itself is in no file, only in the hands of whoever it was made for:

    keys:
      billing:
        sha256: 9f86d081…
        experts: [chemistry]         # without it, every expert
        requests_per_minute: 600     # both hold in each router replica; without them, no limit
        max_concurrent: 8
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from cluster.errors import ConfigError
from cluster.strict import LoadContext, Strict, problems
from cluster.yaml_edit import with_value
from cluster.yaml_file import parse_yaml, read_text, read_yaml
from cluster.yaml_places import find_places
from experts.names import EXPERT_NAME
from router.keys import digest_of
from router.table import ApiKey

# Of what people make up themselves, the digest can be guessed; of 20 random characters it cannot.
MIN_KEY_LENGTH = 20
KEY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

_HEADER = (
    "# API keys of the cluster, by name: digests alone. Changed by `etr keys`, in force after `etr apply`.\n"
)


class KeyEntry(Strict):
    """What the file says of one key; `ApiKey` without its name."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    experts: list[Annotated[str, Field(pattern=f"^{EXPERT_NAME.pattern}$")]] | None = None
    requests_per_minute: int | None = Field(None, ge=1)
    max_concurrent: int | None = Field(None, ge=1)


class KeysFile(Strict):
    keys: dict[Annotated[str, Field(pattern=KEY_NAME)], KeyEntry] | None = None


def load_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file that the cluster is to ask for.

    Raises:
        ConfigError: one line per problem; also where there is none, for then everybody could ask.
    """
    keys = read_keys(path)
    if not keys:
        raise ConfigError(
            [
                f"{path}: keys: there is none, and without keys everybody may ask; "
                f"make one with `etr keys create NAME --file {path}` or remove http.keys_file"
            ]
        )
    return keys


def keys_from_env(variable: str) -> tuple[ApiKey, ...]:
    """The keys in a variable, comma separated; they permit everything and are named by their place.

    Raises:
        ConfigError: there is none, or one that is unfit; the message never has the key.
    """
    given = [key.strip() for key in os.environ.get(variable, "").split(",")]
    plain = [key for key in given if key]
    if not plain:
        raise ConfigError(
            [f"environment: {variable}: has no API key; set it to one or several, comma separated"]
        )
    for number, key in enumerate(plain, start=1):
        _require_unguessable(key, f"environment: {variable}: key {number} of {len(plain)}")
    # A colon is in no name of a file, so that keys of both can stand side by side.
    keys = tuple(
        ApiKey(name=f"env:{number}", sha256=digest_of(key)) for number, key in enumerate(plain, start=1)
    )
    _require_different(keys, f"environment: {variable}")
    return keys


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """`load_keys` for whoever does not mind that there is none. Raises ConfigError."""
    if not path.exists():
        raise ConfigError([f"{path}: no such file; make it with `etr keys create NAME --file {path}`"])
    return _checked(read_yaml(path), path)


def same_keys(keys: Iterable[ApiKey]) -> Iterator[str]:
    """Says of each key that is there under two names what to do about it."""
    owners: dict[str, str] = {}
    for key in keys:
        owner = owners.setdefault(key.sha256, key.name)
        if owner != key.name:
            yield f"'{owner}' and '{key.name}' are the same key; remove one"


def create_key(path: Path, name: str, limits: Mapping[str, Any]) -> str:
    """Make a key, put its digest into the file, and return it: nobody can tell it again.

    `limits` are the fields of `KeyEntry` beside the digest; those that are None are left out.

    Raises:
        ConfigError: the file has a key of that name, or it cannot be changed.
    """
    key = f"etr-{secrets.token_urlsafe(32)}"
    entry = {"sha256": digest_of(key)} | {what: limit for what, limit in limits.items() if limit is not None}
    if path.exists() and name in {known.name for known in read_keys(path)}:
        raise ConfigError([f"{path}: keys.{name}: is there already; revoke it first or choose another name"])
    if path.exists():
        text = with_value(path, ("keys", name), entry)
    else:
        text = _HEADER + yaml.safe_dump({"keys": {name: entry}}, sort_keys=False)
    _write(path, text)
    return key


def revoke_key(path: Path, name: str) -> None:
    """Take a key out of the file; everything else in it stays as it is, comments too.

    Raises:
        ConfigError: the file has no key of that name, or it cannot be changed.
    """
    known = [key.name for key in read_keys(path)]
    if name not in known:
        raise ConfigError([f"{path}: keys.{name}: there is no such key; keys: {', '.join(known) or 'none'}"])
    text = read_text(path)
    data = parse_yaml(text, path)
    wanted = {key: entry for key, entry in data["keys"].items() if key != name}
    with suppress(ConfigError):
        edited = _without(text, name)
        if parse_yaml(edited, path) == {**data, "keys": wanted or None}:
            return _write(path, edited)
    raise ConfigError([f"{path}: keys.{name}: cannot be taken out safely; remove its lines by hand"])


def _checked(data: Any, path: Path) -> tuple[ApiKey, ...]:
    context = LoadContext(path.absolute().parent)
    try:
        file = KeysFile.model_validate({} if data is None else data, context=context)
    except ValidationError as error:
        raise ConfigError([f"{path}: {problem}" for problem in problems(error, data, context)]) from error
    keys = tuple(_api_key(name, entry) for name, entry in (file.keys or {}).items())
    _require_different(keys, str(path))
    return keys


def _api_key(name: str, entry: KeyEntry) -> ApiKey:
    experts = None if entry.experts is None else tuple(entry.experts)
    return ApiKey(name=name, **{**entry.model_dump(), "experts": experts})


def _require_unguessable(key: str, where: str) -> None:
    if len(key) < MIN_KEY_LENGTH:
        raise ConfigError(
            [f"{where}: is shorter than {MIN_KEY_LENGTH} characters and could be guessed; use a random one"]
        )
    if not re.fullmatch(r"[!-~]+", key):
        raise ConfigError([f"{where}: has characters that no header carries; use letters and digits"])


def _require_different(keys: Iterable[ApiKey], where: str) -> None:
    problems = [f"{where}: {problem}" for problem in same_keys(keys)]
    if problems:
        raise ConfigError(problems)


def _without(text: str, name: str) -> str:
    """The lines from the key's name to the last of its values go."""
    root = find_places(text)
    keys = root.members["keys"] if root and root.members else None
    if keys is None or not keys.members or keys.is_flow:
        return text  # which still has it: the caller compares
    start = text.rfind("\n", 0, keys.key_starts[name]) + 1
    end = text.find("\n", keys.members[name].end - 1) + 1
    return text[:start] + text[end or len(text) :]


def _write(path: Path, text: str) -> None:
    """At once, and for the owner's eyes alone. Raises ConfigError where the text would be no keys file."""
    _checked(parse_yaml(text, path), path)
    target = path.resolve()  # a link stays a link
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        unfinished.replace(target)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise ConfigError(
            [f"{path}: cannot be written: {error.strerror}; make its folder writable"]
        ) from error

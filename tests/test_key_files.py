"""Keys in files and variables, and the commands that make and revoke them."""

import os
import stat
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from cluster.cli import app
from cluster.errors import ConfigError
from cluster.keys import create_key, keys_from_env, load_keys, read_keys, revoke_key
from router.errors import Unauthorized
from router.keys import digest_of, find_key
from router.table import ApiKey

ALICE, BOB = digest_of("alice's long and secret key"), digest_of("bob's long and secret key")
WRITTEN = f"""\
# Who may ask.
keys:
  # the finance department, until June
  alice:
    sha256: {ALICE}   # made by Ann
    experts: [roman]
    max_concurrent: 2
  bob: {{sha256: {BOB}, requests_per_minute: 60}}
# the end
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def etr(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["keys", *map(str, arguments)])


def test_a_file_gives_its_keys_in_order(path: Path):
    path.write_text(WRITTEN, encoding="utf-8")
    assert load_keys(path) == (
        ApiKey(name="alice", sha256=ALICE, experts=("roman",), max_concurrent=2),
        ApiKey(name="bob", sha256=BOB, requests_per_minute=60),
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "keys: there is none, and without keys everybody may ask"),
        ("keys:\n", "keys: there is none"),
        ("keys: {}\n", "keys: there is none"),
        ("keys: [a]\n", "keys: "),
        ("kyes: {}\n", "kyes: unknown key; did you mean 'keys'?"),
        ("keys: {a: {}}\n", "keys.a.sha256: is required"),
        ("keys: {a: {sha256: plain-text-key-of-somebody}}\n", "keys.a.sha256: should match"),
        (f"keys: {{a: {{sha256: {ALICE.upper()}}}}}\n", "keys.a.sha256: should match"),
        (f"keys: {{a b: {{sha256: {ALICE}}}}}\n", "keys.a b: should match"),
        (
            f"keys: {{a: {{sha256: {ALICE}, expert: [b]}}}}\n",
            "keys.a.expert: unknown key; did you mean 'experts'",
        ),
        (f"keys: {{a: {{sha256: {ALICE}, experts: [../b]}}}}\n", "keys.a.experts.0: should match"),
        (f"keys: {{a: {{sha256: {ALICE}, max_concurrent: 0}}}}\n", "keys.a.max_concurrent: "),
        (f"keys: {{a: {{sha256: {ALICE}, requests_per_minute: true}}}}\n", "keys.a.requests_per_minute: "),
        (f"keys: {{a: {{sha256: {ALICE}}}, b: {{sha256: {ALICE}}}}}\n", "'a' and 'b' are the same key"),
        (
            f"keys:\n  a: {{sha256: {ALICE}}}\n  a: {{sha256: {BOB}}}\n",
            "keys.a: is given twice (lines 2 and 3)",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(path: Path, text: str, complaint: str):
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load_keys(path)
    [line] = refused.value.problems
    assert line.startswith(f"{path}: ")
    assert complaint in line


def test_a_file_that_is_not_there_is_named_with_the_command_that_makes_it(path: Path):
    with pytest.raises(ConfigError, match=r"no such file; make it with `etr keys create"):
        load_keys(path)


def test_a_variable_holds_one_key_or_several(monkeypatch: pytest.MonkeyPatch):
    first, second = "first-key-0123456789", "second-key-0123456789"
    monkeypatch.setenv("KEYS", f" {first}, {second},")
    keys = keys_from_env("KEYS")
    assert keys == (
        ApiKey(name="env:1", sha256=digest_of(first)),
        ApiKey(name="env:2", sha256=digest_of(second)),
    )
    assert find_key(keys, f"Bearer {second}") is keys[1]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (None, "has no API key"),
        (" , ", "has no API key"),
        ("0123456789012345678", "key 1 of 1: is shorter than 20 characters"),
        ("01234567890123456789,x4Z!q", "key 2 of 2: is shorter"),
        ("0123456789 0123456789", "key 1 of 1: has characters that no header carries"),
        ("schlüssel-0123456789-0123456789", "key 1 of 1: has characters that no header carries"),
        ("01234567890123456789,01234567890123456789", "'env:1' and 'env:2' are the same key"),
    ],
)
def test_a_variable_without_good_keys_is_refused_without_telling_them(
    monkeypatch: pytest.MonkeyPatch, value: str | None, complaint: str
):
    monkeypatch.delenv("KEYS", raising=False)
    if value is not None:
        monkeypatch.setenv("KEYS", value)
    with pytest.raises(ConfigError) as refused:
        keys_from_env("KEYS")
    [line] = refused.value.problems
    assert "KEYS" in line
    assert complaint in line
    assert not any(key in line for key in (value or "").split(",") if len(key) > 2)


def test_a_new_key_is_told_once_and_only_its_digest_is_kept(path: Path):
    result = etr("create", "alice", "--file", path, "--expert", "roman", "--expert", "morse")
    assert result.exit_code == 0
    key = result.stdout.strip()
    assert len(key) >= 40
    assert key not in path.read_text(encoding="utf-8")
    assert key not in result.stderr
    [found] = load_keys(path)
    assert find_key((found,), f"Bearer {key}") is found
    assert (found.name, found.experts) == ("alice", ("roman", "morse"))
    assert "etr apply" in result.stderr
    other = etr("create", "bob", "--file", path, "--requests-per-minute", "5", "--max-concurrent", "2")
    assert other.stdout.strip() != key
    bob = load_keys(path)[1]
    assert (bob.experts, bob.requests_per_minute, bob.max_concurrent) == (None, 5, 2)


def test_only_the_owner_may_read_what_is_written(path: Path):
    etr("create", "alice", "--file", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    etr("create", "bob", "--file", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == [path.name]


def test_comments_stay_when_keys_come_and_go(path: Path):
    path.write_text(WRITTEN, encoding="utf-8")
    create_key(path, "carol", {"experts": None, "requests_per_minute": 7, "max_concurrent": None})
    with_carol = path.read_text(encoding="utf-8")
    assert [key.name for key in read_keys(path)] == ["alice", "bob", "carol"]
    for line in WRITTEN.splitlines():
        assert line in with_carol
    revoke_key(path, "carol")
    assert path.read_text(encoding="utf-8") == WRITTEN
    revoke_key(path, "alice")
    assert path.read_text(encoding="utf-8") == (
        "# Who may ask.\nkeys:\n  # the finance department, until June\n"
        f"  bob: {{sha256: {BOB}, requests_per_minute: 60}}\n# the end\n"
    )


@settings(deadline=None)  # files are written, and disks have their moods
@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.sampled_from(["a", "b", "1", "true", "null", "x-1"])), max_size=8
    ),
)
def test_any_row_of_changes_leaves_the_keys_that_were_made_and_not_revoked(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, str]]
):
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    kept: dict[str, str] = {}
    for creates, name in steps:
        if creates and name not in kept:
            kept[name] = digest_of(create_key(path, name, {}))
        elif name in kept:
            revoke_key(path, name)
            del kept[name]
    if path.exists():
        assert {key.name: key.sha256 for key in read_keys(path)} == kept


def test_a_revoked_key_is_no_longer_known(path: Path):
    alice = etr("create", "alice", "--file", path).stdout.strip()
    etr("create", "bob", "--file", path)
    assert etr("revoke", "alice", "--file", path).exit_code == 0
    with pytest.raises(Unauthorized):
        find_key(load_keys(path), f"Bearer {alice}")


def test_the_last_key_leaves_a_file_that_no_cluster_takes(path: Path):
    """An empty table lets everybody in: to revoke the last key must not do that by accident."""
    etr("create", "alice", "--file", path)
    result = etr("revoke", "alice", "--file", path)
    assert "it was the last" in result.stderr
    with pytest.raises(ConfigError, match="everybody may ask"):
        load_keys(path)
    assert etr("create", "bob", "--file", path).exit_code == 0
    assert [key.name for key in load_keys(path)] == ["bob"]


def test_the_list_shows_what_each_key_permits_and_no_whole_digest(path: Path):
    path.write_text(WRITTEN, encoding="utf-8")
    shown = etr("list", "--file", path).stdout
    for word in ("alice", "roman", "bob", "every", "60", ALICE[:8]):
        assert word in shown
    assert ALICE not in shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("create", "alice"), "keys.alice: is there already"),
        (("create", "no good"), "keys.no good: should match"),
        (("create", "carol", "--expert", "../roman"), "keys.carol.experts.0: should match"),
        (("revoke", "carol"), "there is no such key; keys: alice, bob"),
    ],
)
def test_a_refused_change_leaves_the_file_alone(path: Path, arguments: tuple[str, ...], complaint: str):
    path.write_text(WRITTEN, encoding="utf-8")
    result = etr(*arguments, "--file", path)
    assert result.exit_code == 1
    assert complaint in result.stderr
    assert result.stdout == ""
    assert path.read_text(encoding="utf-8") == WRITTEN


def test_keys_in_braces_are_left_to_the_person_who_wrote_them(path: Path):
    text = yaml.safe_dump({"keys": {"a": {"sha256": ALICE}, "b": {"sha256": BOB}}}, default_flow_style=True)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="remove its lines by hand"):
        revoke_key(path, "a")
    assert path.read_text(encoding="utf-8") == text


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path):
    result = etr("create", "alice", "--file", tmp_path / "nowhere" / "keys.yaml")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "cannot be written" in result.stderr

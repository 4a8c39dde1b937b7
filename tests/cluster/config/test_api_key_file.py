"""API keys in files and environment variables, and the commands that make and revoke them."""

import os
import stat
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from cluster.cli.main import app
from cluster.config.api_key_file import create_key, keys_from_env, load_keys, read_keys, revoke_key
from cluster.errors import ConfigError
from cluster.process_lock import exclusive
from cluster.yaml_files import locked_edit
from router.api.keys import bearer_digest, digest_of, find_key
from router.api_key import ApiKey
from router.errors import Unauthorized

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


def find(keys: tuple[ApiKey, ...], key: str) -> ApiKey | None:
    return find_key({known.sha256: known for known in keys}, bearer_digest(f"Bearer {key}"))


def test_a_file_is_read_in_order(path: Path):
    path.write_text(WRITTEN, encoding="utf-8")
    assert load_keys(path) == (
        ApiKey(name="alice", sha256=ALICE, experts=("roman",), max_concurrent=2),
        ApiKey(name="bob", sha256=BOB, requests_per_minute=60),
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "keys: is empty, and without keys every client may send requests"),
        ("keys:\n", "keys: is empty"),
        ("keys: {}\n", "keys: is empty"),
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
def test_a_wrong_file_is_refused_in_one_line(path: Path, text: str, complaint: str):
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load_keys(path)
    [line] = refused.value.problems
    assert line.startswith(f"{path}: ")
    assert complaint in line


def test_a_missing_file_is_named_with_the_command_that_makes_it(path: Path):
    with pytest.raises(ConfigError, match=r"no such file; make it with `etr keys create"):
        load_keys(path)


def test_a_variable_has_one_or_more_keys(monkeypatch: pytest.MonkeyPatch):
    first, second = "first-key-0123456789", "second-key-0123456789"
    monkeypatch.setenv("KEYS", f" {first}, {second},")
    keys = keys_from_env("KEYS")
    assert keys == (
        ApiKey(name="env:1", sha256=digest_of(first)),
        ApiKey(name="env:2", sha256=digest_of(second)),
    )
    assert find(keys, second) is keys[1]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (None, "has no API key"),
        (" , ", "has no API key"),
        ("0123456789012345678", "key 1 of 1: is shorter than 20 characters"),
        ("01234567890123456789,x4Z!q", "key 2 of 2: is shorter"),
        ("0123456789 0123456789", "key 1 of 1: has characters that an HTTP header cannot carry"),
        ("schlüssel-0123456789-0123456789", "key 1 of 1: has characters that an HTTP header cannot carry"),
        ("01234567890123456789,01234567890123456789", "'env:1' and 'env:2' are the same key"),
    ],
)
def test_unsuitable_keys_of_a_variable_are_refused_and_not_shown(
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


def test_a_new_key_is_printed_once_and_only_its_digest_is_stored(path: Path):
    result = etr("create", "alice", "--file", path, "--expert", "roman", "--expert", "morse")
    assert result.exit_code == 0
    key = result.stdout.strip()
    assert len(key) >= 40
    assert key not in path.read_text(encoding="utf-8")
    assert key not in result.stderr
    [found] = load_keys(path)
    assert find((found,), key) is found
    assert (found.name, found.experts) == ("alice", ("roman", "morse"))
    assert "etr apply" in result.stderr
    limits = ("--requests-per-minute", "5", "--max-concurrent", "2", "--priority", "-2")
    other = etr("create", "bob", "--file", path, *limits)
    assert other.stdout.strip() != key
    bob = load_keys(path)[1]
    assert (bob.experts, bob.requests_per_minute, bob.max_concurrent) == (None, 5, 2)
    assert bob.priority == -2


def test_only_the_owner_may_read_the_file(path: Path):
    etr("create", "alice", "--file", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    etr("create", "bob", "--file", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(os.listdir(path.parent)) == [".etr", path.name]


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


@settings(deadline=None)  # writing files takes an unpredictable time
@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.sampled_from(["a", "b", "1", "true", "null", "x-1"])), max_size=8
    ),
)
def test_after_any_changes_the_file_has_the_keys_made_and_not_revoked(
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
        find(load_keys(path), alice)


def test_a_cluster_refuses_a_file_without_keys(path: Path):
    """Without keys, every client may send requests; revoking the last key must not do that by accident."""
    etr("create", "alice", "--file", path)
    result = etr("revoke", "alice", "--file", path)
    assert "it was the last key" in result.stderr
    with pytest.raises(ConfigError, match="every client may send requests"):
        load_keys(path)
    assert etr("create", "bob", "--file", path).exit_code == 0
    assert [key.name for key in load_keys(path)] == ["bob"]


def test_the_list_shows_limits_and_only_the_start_of_digests(path: Path):
    path.write_text(WRITTEN, encoding="utf-8")
    shown = etr("list", "--file", path).stdout
    for word in ("alice", "roman", "bob", "every", "60", ALICE[:8]):
        assert word in shown
    assert ALICE not in shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("create", "alice"), "keys.alice: exists already"),
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


def test_keys_in_braces_can_be_revoked(path: Path):
    path.write_text(f"keys: {{a: {{sha256: {ALICE}}}, b: {{sha256: {BOB}}}}}  # two\n", encoding="utf-8")
    revoke_key(path, "a")
    assert path.read_text(encoding="utf-8") == f"keys: {{b: {{sha256: {BOB}}}}}  # two\n"
    revoke_key(path, "b")
    assert path.read_text(encoding="utf-8") == "keys: {}  # two\n"


def test_a_key_that_cannot_be_removed_safely_is_left_to_the_user(path: Path):
    text = f"keys:\n  a: &a {{sha256: {ALICE}}}\n  b: *a\n".replace("*a", f"{{<<: *a, sha256: {BOB}}}")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"keys\.a: cannot be removed safely; remove its lines by hand"):
        revoke_key(path, "a")
    assert path.read_text(encoding="utf-8") == text


def _create(path: Path, name: str) -> str:
    create_key(path, name, {})
    return name


def test_keys_made_at_the_same_time_are_all_in_the_file(path: Path):
    names = [f"key-{number}" for number in range(12)]
    create_key(path, "first", {})
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        assert sorted(pool.map(_create, [path] * len(names), names)) == sorted(names)
    assert {key.name for key in read_keys(path)} == {"first", *names}


def test_a_key_revoked_while_another_is_made_stays_revoked(path: Path):
    names = [f"key-{number}" for number in range(20)]
    for name in names:
        create_key(path, name, {})
    with ThreadPoolExecutor(4) as pool:
        revoked = [pool.submit(revoke_key, path, name) for name in names]
        made = [pool.submit(_create, path, f"new-{name}") for name in names]
    assert [change.exception() for change in revoked] == [None] * len(names)
    assert [change.result() for change in made] == [f"new-{name}" for name in names]
    assert {key.name for key in read_keys(path)} == {f"new-{name}" for name in names}


def test_a_key_revoked_twice_at_once_is_gone_and_the_second_is_told_so(path: Path):
    create_key(path, "alice", {})
    create_key(path, "bob", {})
    with ThreadPoolExecutor(4) as pool:
        errors = [pool.submit(revoke_key, path, "alice").exception() for _ in range(4)]
    assert errors.count(None) == 1
    assert {str(error) for error in errors if error} == {
        f"{path}: keys.alice: there is no such key; keys: bob"
    }


def test_an_edit_names_the_process_that_holds_the_lock(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(locked_edit, "LOCK_TIMEOUT_S", 0.1)
    with (
        exclusive(path.parent / ".etr" / "keys.yaml.lock"),
        pytest.raises(ConfigError, match=rf"is being changed by process {os.getpid()}, since .*; try again"),
    ):
        create_key(path, "late", {})
    assert not path.exists()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path):
    result = etr("create", "alice", "--file", tmp_path / "nowhere" / "keys.yaml")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "cannot be written" in result.stderr

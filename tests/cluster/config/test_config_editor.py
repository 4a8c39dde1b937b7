"""Editing cluster.yaml: an edit changes only its own lines, and the result is checked before writing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.config.cluster_config import load_config
from cluster.config.config_editor import (
    add_expert,
    remove_expert,
    set_value,
    set_values,
    with_expert,
    without_expert,
)
from cluster.errors import ConfigError
from cluster.yaml_files.editor import with_value

ENTRY = {"model": {"path": "models/new"}, "token": "tokens/new.safetensors"}
META = "meta:\n  model: {path: models/meta}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("meta", "old", "new"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.json").write_text("{}")
    (tmp_path / "tokens").mkdir()
    for name in ("old", "new"):
        (tmp_path / "tokens" / f"{name}.safetensors").write_bytes(b"")
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "cluster.yaml"
    path.write_bytes(text.encode())
    return path


def inserted(before: str, after: str) -> str:
    """What `after` has more than `before`, which it must otherwise begin and end with."""
    start = next(
        (i for i, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), len(before)
    )
    rest = before[start:]
    assert after.endswith(rest), "something else has changed"
    return after[start : len(after) - len(rest)]


@pytest.mark.parametrize(
    ("experts", "expected"),
    [
        ("", "experts:\n  new:\n    model: {path: models/new}\n    token: tokens/new.safetensors\n"),
        (
            "experts:\n  # 1\n  old: {model: {path: models/old}, token: tokens/old.safetensors}  # kept\n",
            "  new:\n    model: {path: models/new}\n    token: tokens/new.safetensors\n",
        ),
        (
            "experts:\n    old:\n        model: {path: models/old}\n        token: tokens/old.safetensors\n",
            "    new:\n      model: {path: models/new}\n      token: tokens/new.safetensors\n",
        ),
        (
            "experts: {old: {model: {path: models/old}, token: tokens/old.safetensors}, }\n",
            ", new: {model: {path: models/new}, token: tokens/new.safetensors}",
        ),
        ("experts:\n", "  new:\n    model: {path: models/new}\n    token: tokens/new.safetensors\n"),
    ],
)
def test_an_expert_is_added_in_the_style_of_the_others(folder: Path, experts: str, expected: str):
    before = f"# mine\n{META}{experts}"
    path = write(folder, before)
    add_expert(path, "new", ENTRY)
    assert path.read_text().replace(expected, "", 1) == before
    assert load_config(path).local_experts["new"].token == str(folder / "tokens" / "new.safetensors")


@pytest.mark.parametrize("nothing", ["{}", "{ }", "null", "~"])
def test_an_empty_experts_value_becomes_a_block(folder: Path, nothing: str):
    path = write(folder, f"experts: {nothing}  # none so far\n\n{META}")
    add_expert(path, "new", ENTRY)
    assert path.read_text() == (
        "experts:  # none so far\n  new:\n    model: {path: models/new}\n    token: tokens/new.safetensors\n"
        f"\n{META}"
    )


def test_comments_stay_with_the_expert_they_are_about(folder: Path):
    last = "experts:\n  old:\n    model: {path: models/old}\n    token: tokens/old.safetensors  # learned\n"
    about_old, about_http = (
        "    # autoscaling: {max_replicas: 2}\n",
        "\n# where it answers\nhttp: {port: 9000}\n",
    )
    path = write(folder, META + last + about_old + about_http)
    add_expert(path, "new", ENTRY)
    text = path.read_text()
    assert text.startswith(META + last + about_old + "  new:\n")
    assert text.endswith(about_http)


def test_line_endings_are_kept_and_a_missing_last_one_is_added(folder: Path):
    before = (
        META.replace("\n", "\r\n")
        + "experts:\r\n  old: {model: {path: models/old}, token: tokens/old.safetensors}"
    )
    path = write(folder, before)
    add_expert(path, "new", ENTRY)
    after = path.read_bytes().decode()
    assert after.startswith(before + "\r\n  new:\r\n")
    assert after.count("\n") == after.count("\r\n")
    assert set(load_config(path).experts) == {"old", "new"}


@pytest.mark.parametrize(
    ("routing", "after"),
    [
        ("", "routing: {call_bias: -0.25}\n"),
        ("routing: {when: start}\n", "routing: {when: start, call_bias: -0.25}\n"),
        ("routing: {call_bias: 0.5, when: start}  # x\n", "routing: {call_bias: -0.25, when: start}  # x\n"),
        ("routing:\n  when: start\n", "routing:\n  when: start\n  call_bias: -0.25\n"),
        ("routing:\n  call_bias: 1 # low\n", "routing:\n  call_bias: -0.25 # low\n"),
        ("routing:\n", "routing:\n  call_bias: -0.25\n"),
    ],
)
def test_a_setting_is_changed_where_it_is_and_added_where_it_is_not(folder: Path, routing: str, after: str):
    path = write(folder, META + routing + "http: {port: 9000}\n")
    set_value(path, ("routing", "call_bias"), -0.25)
    assert load_config(path).routing.call_bias == -0.25
    kept = "http: {port: 9000}\n"
    assert path.read_text() == META + (after + kept if routing else kept + after)


def test_names_that_yaml_would_read_as_something_else_are_quoted(folder: Path):
    path = write(folder, META)
    for name in ("no", "1e3", "null"):
        add_expert(path, name, ENTRY)
    assert list(load_config(path).experts) == ["no", "1e3", "null"]


def test_a_link_stays_a_link_and_permissions_are_kept(folder: Path):
    path = write(folder, META)
    path.chmod(0o640)
    (folder / "link.yaml").symlink_to(path)
    add_expert(folder / "link.yaml", "new", ENTRY)
    assert (folder / "link.yaml").is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert "new" in load_config(path).experts
    assert [path.name for path in folder.glob(".*")] == [".etr"]


OLD = "  old: {model: {path: models/old}, token: tokens/old.safetensors}\n"
REFUSED = [
    (META + "experts:\n" + OLD.replace("old:", "new:"), "experts.new: exists already; choose another name"),
    # An alias is another block's text too, and a list is no place for an expert.
    (f"experts: &all\n{OLD}{META}pools: *all\n", "experts.new: cannot be changed safely where it stands"),
    (META + "experts: [1]\n", "cannot be changed safely where it stands; add by hand: experts: {new: "),
    (META + "experts: {  # none\n  }\n", "cannot be changed safely where it stands"),
    (META + "? experts\n: ? old\n  : 3\n", "cannot be changed safely where it stands"),
    ("meta: {model: {path: nowhere}}\n", "meta.model.path: no such folder"),
    ("- 1\n", "cannot be changed safely where it stands"),
    ("a: [\n", "not valid YAML"),
]


@pytest.mark.parametrize(("text", "complaint"), REFUSED)
def test_a_file_that_cannot_be_edited_is_not_changed(folder: Path, text: str, complaint: str):
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        add_expert(path, "new", ENTRY)
    assert str(caught.value).startswith(f"{path}: ")
    assert complaint in str(caught.value)
    assert path.read_text() == text
    assert [path.name for path in folder.glob(".*")] == [".etr"]


def test_an_invalid_result_is_not_written(folder: Path):
    path = write(folder, META)
    with pytest.raises(ConfigError, match="routing.max_handoffs: should be greater than or equal to 0"):
        set_value(path, ("routing", "max_handoffs"), -1)
    with pytest.raises(ConfigError, match="experts.new.model.path: no such folder"):
        add_expert(path, "new", ENTRY | {"model": {"path": "models/nowhere"}})
    assert path.read_text() == META


DEEP = " " * 12
COMMENTS = st.sampled_from(["", "# c", "  # deeper", "      # deeper still", " ", "#: {}", "# experts:"])
NAMES = st.lists(st.sampled_from(["old", "a", "z-1", "no", "x.y", "experts"]), unique=True, max_size=4)
SCALARS = st.sampled_from(
    ["1", "'a: b'", '"#"', "x # y", f"|\n{DEEP}two\n{DEEP}lines\n", f">-\n{DEEP}folded\n\n", "[1, 2]"]
)
TAILS = st.sampled_from(["", "...\n", "http: {port: 9000}\n", "# end", "router:\n  resources: *r\n"])


@st.composite
def files(draw: Any) -> str:
    """A file's text with experts in every style, and comments and blank lines wherever they may be."""
    lines = [draw(COMMENTS), "meta:", "  model: {path: models/meta}", "  resources: &r {num_cpus: 1}"]
    names = draw(NAMES)
    lines += [draw(COMMENTS), "experts:" if names else draw(st.sampled_from(["experts:", "experts: {}", ""]))]
    indent = " " * draw(st.integers(1, 4))
    for name in names:
        lines += [draw(COMMENTS)]
        key = f"{indent}{name!r}:"
        style = draw(st.integers(0, 3))
        if style == 0:
            lines += [f"{key} {{a: 1, b: {{c: [2]}}}}"]
        elif style == 1:
            lines += [key, draw(COMMENTS), f"{indent}  a: {draw(SCALARS)}", f"{indent}  b: *r"]
        elif style == 2:
            lines += [f"{key} &{name.replace('.', '')}", f"{indent} b:", f"{indent} a: {draw(SCALARS)}"]
        else:
            lines += [f"{key} # nothing"]
        lines += [draw(COMMENTS)]
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    return ("\n".join(lines) + "\n" + draw(TAILS)).replace("\n", newline)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(files(), st.sampled_from(["new", "null", "7"]))
def test_adding_an_expert_changes_nothing_else_in_any_file(tmp_path: Path, text: str, name: str):
    before = yaml.safe_load(text)
    path = write(tmp_path, text)
    after = with_expert(path, name, ENTRY)
    assert yaml.safe_load(after) == before | {"experts": (before.get("experts") or {}) | {name: ENTRY}}
    replaced = text.replace("experts: {}", "experts:") if not before.get("experts") else text
    new = inserted(replaced, after)
    assert "models/new" in new
    assert "#" not in new
    biased = with_value(text, path, ("routing", "call_bias"), 0.5)
    assert yaml.safe_load(biased) == before | {"routing": {"call_bias": 0.5}}
    assert inserted(text, biased).strip() == "routing: {call_bias: 0.5}"


OLD = "  old:\n    model: {path: models/old}\n    token: tokens/old.safetensors  # learned\n"
NEW = "  new:\n    model: {path: models/new}\n    token: tokens/new.safetensors\n"
FLOW_OLD = "old: {model: {path: models/old}, token: tokens/old.safetensors}"
FLOW_NEW = "new: {model: {path: models/new}, token: tokens/new.safetensors}"


@pytest.mark.parametrize(
    ("experts", "after"),
    [
        (f"experts:\n{OLD}{NEW}", f"experts:\n{NEW}"),
        (f"experts:\n{NEW}{OLD}\n# next\n", f"experts:\n{NEW}\n# next\n"),
        (f"experts:\n{OLD}    # about old\n{NEW}", f"experts:\n{NEW}"),
        (
            f"experts:\n  # about both\n{OLD}  # between\n{NEW}",
            f"experts:\n  # about both\n  # between\n{NEW}",
        ),
        (f"experts: {{{FLOW_OLD}, {FLOW_NEW}}}  # two\n", f"experts: {{{FLOW_NEW}}}  # two\n"),
        (f"experts: {{{FLOW_NEW}, {FLOW_OLD}}}  # two\n", f"experts: {{{FLOW_NEW}}}  # two\n"),
        (f"experts:\n{OLD}", ""),
        (f"experts: {{{FLOW_OLD}}}\n", ""),
    ],
)
@pytest.mark.parametrize("tail", ["", "http: {port: 9000}\n"])
def test_only_the_expert_is_removed(folder: Path, experts: str, after: str, tail: str):
    path = write(folder, META + experts + tail)
    remove_expert(path, "old")
    assert path.read_text() == META + after + tail
    assert "old" not in load_config(path).experts


def test_an_expert_with_an_anchor_that_others_use_is_not_removed(folder: Path):
    shared = "  old:\n    model: &m {path: models/old}\n    token: tokens/old.safetensors\n"
    user = "  new:\n    model: *m\n    token: tokens/new.safetensors\n"
    path = write(folder, f"{META}experts:\n{shared}{user}")
    before = path.read_text()
    with pytest.raises(
        ConfigError, match=r"experts\.old: cannot be removed safely; remove its lines by hand"
    ):
        remove_expert(path, "old")
    assert path.read_text() == before


def test_an_unknown_expert_cannot_be_removed(folder: Path):
    with pytest.raises(ConfigError, match=r"experts\.nobody: there is no such expert; experts: old"):
        remove_expert(write(folder, f"{META}experts:\n{OLD}"), "nobody")
    with pytest.raises(ConfigError, match="experts: none"):
        remove_expert(write(folder, META), "nobody")


def test_several_values_are_checked_together(folder: Path):
    path = write(folder, f"{META}experts:\n{OLD}")
    scaling = ("experts", "old", "autoscaling")
    with pytest.raises(ConfigError, match="min_replicas 2 is above max_replicas 1"):
        set_value(path, (*scaling, "min_replicas"), 2)
    set_values(path, {(*scaling, "min_replicas"): 2, (*scaling, "max_replicas"): 3})
    found = load_config(path).local_experts["old"].autoscaling
    assert (found.min_replicas, found.max_replicas) == (2, 3)


@given(names=st.lists(st.sampled_from("abcdef"), min_size=1, unique=True), flow=st.booleans(), data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_an_added_expert_can_be_removed_again(tmp_path: Path, names: list[str], flow: bool, data: Any):
    experts = {name: {"model": {"path": f"m/{name}"}, "token": f"t/{name}"} for name in names}
    text = f"# top\n{META}" + _block(experts, flow) + "# end\n"
    path = tmp_path / "any.yaml"
    path.write_text(text)
    gone = data.draw(st.sampled_from(names))
    after = without_expert(path, gone)
    del experts[gone]
    assert yaml.safe_load(after).get("experts", {}) == experts
    assert after.startswith(f"# top\n{META}")
    assert after.endswith("# end\n")


def _block(experts: dict[str, Any], flow: bool) -> str:
    if not flow:
        return yaml.safe_dump({"experts": experts})
    return f"experts: {yaml.safe_dump(experts, default_flow_style=True, width=1000)}"

"""`etr learn`: one command from questions to tokens, and nothing half-done where it cannot be."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from cluster import learn_options
from cluster.cli import app as etr
from cluster.config import load_config
from cluster.show_learning import stages
from cluster.yaml_edit import set_value
from experts.learn.assign import DEFAULT_MARGIN
from experts.learn.formats import read_queries
from experts.learn.learn import DEFAULT_HELD_OUT_SHARE
from experts.token import ExpertToken
from tests.taught_cluster import answered, taught_models, write_cluster, write_data
from tests.taught_meta import EXPERTS, query


@pytest.fixture
def config(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cluster(tmp_path, taught_models(tmp_path_factory))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "queries.jsonl", answered())


def run(*arguments: object) -> Result:
    return CliRunner().invoke(etr, [str(one) for one in arguments], env={"COLUMNS": "200"})


def learn(config: Path, data: Path, *options: object) -> Result:
    result = run("learn", config, "--data", data, *options)
    assert result.exit_code == 0, result.output
    return result


def refused(config: Path, data: Path, *options: object) -> str:
    """The one line that says why; no token may have been written."""
    result = run("learn", config, "--data", data, *options)
    assert result.exit_code == 1, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert not list(config.parent.glob("tokens/*"))
    return line.removeprefix("error: ")


def tokens(config: Path) -> dict[str, ExpertToken]:
    return {name: ExpertToken.load(one.token) for name, one in load_config(config).experts.items()}


def test_every_expert_gets_its_token_with_scores_on_held_out_queries(config: Path, data: Path):
    result = learn(config, data)
    assert "routing on 24 held-out queries" in result.stdout
    assert "learned from 96 queries" in result.stdout
    for name, token in tokens(config).items():
        assert token.name == name
        assert token.scores["held_out_accuracy"] == 1
    rows = [line.split() for line in result.stdout.splitlines() if any(name in line for name in EXPERTS)]
    assert [row[1:6:2] for row in rows] == [[name, "6", "1.000"] for name in EXPERTS]


def test_states_are_kept_beside_the_config_and_used_again_by_the_same_meta_alone(config: Path, data: Path):
    learn(config, data)
    first = {path: path.stat().st_mtime_ns for path in config.parent.glob(".etr/states/*/*/*")}
    assert {path.name for path in first} == {"manifest.json", "shard-00000.safetensors"}
    assert (config.parent / ".etr" / ".gitignore").read_text() == "*\n"
    learn(config, data, "--l2", "0.01")
    assert {path: path.stat().st_mtime_ns for path in config.parent.glob(".etr/states/*/*/*")} == first
    # The head is the same, but the body need not be: its file has another time.
    (config.parent / "models" / "meta" / "model.safetensors").touch()
    learn(config, data)
    assert len(list(config.parent.glob(".etr/states/*"))) == 2


def test_queries_without_labels_are_given_to_the_models_that_answer_them_best(config: Path, data: Path):
    truth = [one.expert for one in read_queries(data)]
    write_data(data, answered(), unlabelled=[*EXPERTS, None])
    result = learn(config, data)
    assert "120 queries without a label: " in result.stdout
    for name in (*EXPERTS, "(nobody)"):
        assert f"{name} 30" in result.stdout
    assigned = data.with_name("queries.assigned.jsonl")
    assert str(assigned) in result.stdout.replace("\n", "")
    assert [one.expert for one in read_queries(assigned)] == truth
    scores = json.loads(assigned.read_text().splitlines()[1])["nll_per_byte"]
    assert min(scores, key=scores.__getitem__) == truth[1]
    assert set(scores) == {"meta", *EXPERTS}
    from_implicit = tokens(config)
    learn(config, assigned)
    for name, token in tokens(config).items():
        assert token.vector.tolist() == from_implicit[name].vector.tolist()


def test_the_labelled_set_goes_where_it_is_told_but_not_over_the_data(config: Path, data: Path):
    write_data(data, answered(), unlabelled=["roman"])
    before = data.read_bytes()
    assert "is the data itself; name another file with --assigned" in refused(
        config, data, "--assigned", data
    )
    learn(config, data, "--assigned", data.with_name("mine.jsonl"))
    assert sum(one.expert == "roman" for one in read_queries(data.with_name("mine.jsonl"))) == 30
    assert data.read_bytes() == before
    assert not data.with_name("queries.assigned.jsonl").exists()


def test_a_margin_that_no_expert_reaches_is_refused_by_the_experts_names(config: Path, data: Path):
    write_data(data, answered(), unlabelled=EXPERTS)
    complaint = refused(config, data, "--margin", "100")
    assert complaint.startswith(f"{data}: at a margin of 100 nats per byte")
    for name in EXPERTS:
        assert f"expert '{name}'" in complaint


def test_the_call_bias_that_goes_with_a_rate_is_told_or_written(config: Path, data: Path):
    set_in(config, 0.75)
    text = config.read_text()
    told = learn(config, data, "--false-trigger-rate", "0.01")
    assert "routing: {call_bias: " in told.stderr
    assert config.read_text() == text
    written = learn(config, data, "--false-trigger-rate", "0.01", "--write")
    found = load_config(config).routing.call_bias
    assert found != 0.75
    assert f"routing.call_bias is now {found:g}" in written.stdout
    assert config.read_text() == text.replace("0.75", f"{found!r}")
    assert run("learn", config, "--data", data, "--write").exit_code == 2


def test_a_rate_that_plain_tokens_miss_is_kept_on_the_held_out_queries(config: Path, data: Path):
    # Every third question about dots is nobody's, and nothing tells it from Morse's.
    queries = answered(0, 90)
    dots = [index for index, one in enumerate(queries) if "dot" in one.messages[0]["content"]]
    for index in dots[::3]:
        queries[index] = replace(queries[index], expert=None)
    write_data(data, queries)
    assert share_left_alone(learn(config, data)) < 1
    assert share_left_alone(learn(config, data, "--false-trigger-rate", "0")) == 1


def share_left_alone(result: Result) -> float:
    (row,) = [line for line in result.stdout.splitlines() if "(nobody)" in line]
    return float(row.split()[5])


def set_in(config: Path, call_bias: float) -> None:
    text = config.read_text()
    for name in EXPERTS:  # the file must be whole to be edited
        (config.parent / "tokens").mkdir(exist_ok=True)
        (config.parent / "tokens" / f"{name}.safetensors").touch()
    set_value(config, ("routing", "call_bias"), call_bias)
    shutil.rmtree(config.parent / "tokens")
    assert config.read_text() != text


def test_scores_that_leave_the_clusters_call_bias_out_say_so(config: Path, data: Path):
    assert "warning" not in learn(config, data).stderr
    set_value(config, ("routing", "call_bias"), -3.5)
    assert "without routing.call_bias, which is -3.5" in learn(config, data).stderr


def test_nothing_is_held_out_if_so_asked_and_the_table_says_it(config: Path, data: Path):
    assert "routing on the very queries learned from" in learn(config, data, "--held-out", "0").stdout
    assert "train_accuracy" in tokens(config)["roman"].scores


def test_labels_that_do_not_fit_the_experts_are_refused_with_the_file(config: Path, data: Path):
    write_data(data, [*answered(), query("rain?", "weather")])
    assert refused(config, data).startswith(f"{data}: line 121: unknown expert 'weather'")
    write_data(data, [one for one in answered() if one.expert != "morse"])
    assert refused(config, data).startswith(f"{data}: no query names expert 'morse'")
    data.write_text("{\n")
    assert refused(config, data).startswith(f"{data}: 1 of 1 lines are broken")
    write_data(data, [*answered(), query("word " * 200, "roman")])
    assert f"{data}: query set: 1 of 121 lines are broken" in refused(config, data)


def test_a_folder_with_other_states_is_refused_by_its_name(config: Path, data: Path, tmp_path: Path):
    learn(config, data, "--states", tmp_path / "kept")
    shutil.rmtree(tmp_path / "tokens")
    write_data(data, answered(5))
    complaint = refused(config, data, "--states", tmp_path / "kept")
    assert complaint.startswith(f"{tmp_path / 'kept'}: its states have dataset_digest ")
    (tmp_path / "file").touch()
    assert f"{tmp_path / 'file'}: cannot be written" in refused(config, data, "--states", tmp_path / "file")


def test_tokens_need_files_of_their_own(config: Path, data: Path):
    text = config.read_text()
    config.write_text(text.replace("tokens/roman", "tokens/morse"))
    assert "experts.roman.token: is the file of expert 'morse' too" in refused(config, data)
    config.write_text(text.replace("tokens/roman", "s3://bucket/roman"))
    assert "experts.roman.token: cannot be written to a URI" in refused(config, data)
    config.write_text(text.replace("tokens/morse.safetensors", "models"))
    assert "experts.morse.token: '" in (complaint := refused(config, data))
    assert "is a folder; name a file in it" in complaint
    config.write_text(text.replace("tokens/morse", "cluster.yaml/morse"))
    assert "the token of 'morse' cannot be written: " in refused(config, data)
    config.write_text(text[: text.index("experts:")])
    assert "experts: none to learn a token for; add one" in refused(config, data)


def test_the_defaults_are_those_of_the_library():
    assert learn_options.MARGIN == DEFAULT_MARGIN
    assert learn_options.HELD_OUT_SHARE == DEFAULT_HELD_OUT_SHARE


def test_progress_is_a_bar_for_a_person_and_a_line_for_a_log():
    for is_terminal in (True, False):
        shown = io.StringIO()
        with stages(Console(file=shown, force_terminal=is_terminal, width=100)) as progress:
            for done in (0, 3, 7):
                progress(done, 7, "states")
            progress(2, 2, "fit")
        text = shown.getvalue()
        assert ("━" in text and "7/7" in text) if is_terminal else text == "states: 7\nfit: 2\n"

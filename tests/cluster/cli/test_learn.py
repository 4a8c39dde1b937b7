"""`etr learn`: from questions to tokens in one command; if it fails, no token is written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.cli.main import app as etr
from cluster.config.cluster_config import load_config
from cluster.config.config_editor import set_value
from cluster.learning import options as learn_options
from experts.learn.assign import DEFAULT_MARGIN
from experts.learn.formats import read_queries
from experts.learn.learn import DEFAULT_HELD_OUT_SHARE
from experts.token import ExpertToken
from tests.tiny.asking_models import ELEMENTS, write_asking_cluster
from tests.tiny.taught_cluster import answered, taught_models, write_cluster, write_data
from tests.tiny.taught_meta import EXPERTS, query


@pytest.fixture
def config(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cluster(tmp_path, taught_models(tmp_path_factory))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "queries.jsonl", answered())


def run(*arguments: object) -> Result:
    return CliRunner().invoke(etr, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def learn(config: Path, data: Path, *options: object) -> Result:
    """From the data only: the tiny meta knows nothing of users."""
    result = run("learn", config, "--data", data, "--negatives", "0", *options)
    assert result.exit_code == 0, result.output
    return result


def refused(config: Path, data: Path, *options: object) -> str:
    """The lines that say why; no token may have been written."""
    result = run("learn", config, "--data", data, "--negatives", "0", *options)
    assert result.exit_code == 1, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert not list(config.parent.glob("tokens/*"))
    return "\n".join(line.removeprefix("error: ") for line in lines)


def tokens(config: Path) -> dict[str, ExpertToken]:
    return {name: ExpertToken.load(expert.token) for name, expert in load_config(config).experts.items()}


def test_every_expert_gets_its_token_with_scores_on_held_out_queries(config: Path, data: Path):
    result = learn(config, data)
    assert "routing on 24 held-out queries" in result.stdout
    assert "learned from 96 queries" in result.stdout
    for name, token in tokens(config).items():
        assert token.name == name
        assert token.scores["held_out_accuracy"] == 1
    rows = [line.split() for line in result.stdout.splitlines() if any(name in line for name in EXPERTS)]
    assert [row[1:6:2] for row in rows] == [[name, "6", "1.000"] for name in EXPERTS]


def test_the_report_says_what_learning_changed(config: Path, data: Path, tmp_path: Path):
    file = tmp_path / "reports" / "learned.json"
    learn(config, data, "--report", file)
    report = json.loads(file.read_text(encoding="utf-8"))
    assert (report["names"], report["added"], report["num_held_out"]) == ([*EXPERTS], None, 24)
    assert report["before"]["accuracy"] == dict.fromkeys(EXPERTS, 0)
    assert report["after"]["accuracy"] == dict.fromkeys(EXPERTS, 1)


def test_states_are_kept_beside_the_config_and_reused_only_by_the_same_meta(config: Path, data: Path):
    learn(config, data)
    first = {path: path.stat().st_mtime_ns for path in config.parent.glob(".etr/states/*/*/*")}
    assert {path.name for path in first} == {"manifest.json", "shard-00000.safetensors"}
    assert (config.parent / ".etr" / ".gitignore").read_text() == "*\n"
    learn(config, data, "--l2", "0.01")
    assert {path: path.stat().st_mtime_ns for path in config.parent.glob(".etr/states/*/*/*")} == first
    # The head is the same, but the body may not be: its file has another time.
    (config.parent / "models" / "meta" / "model.safetensors").touch()
    learn(config, data)
    assert len(list(config.parent.glob(".etr/states/*"))) == 2


def test_no_expert_takes_over_in_the_middle_of_an_answer_unless_that_is_wanted(config: Path, data: Path):
    by_default, late, ignoring = (
        learn(config, data, *options)
        for options in ((), ("--mid-answer", "late"), ("--mid-answer", "ignore"))
    )
    assert share_taken_over(by_default) <= 0.2
    assert share_taken_over(late) >= 0.8
    assert "mid-answer" not in ignoring.stdout
    # Written once, and then read.
    written = ["own answers: " in result.stderr for result in (by_default, late, ignoring)]
    assert written == [True, False, False]
    assert run("learn", config, "--data", data, "--mid-answer", "never").exit_code == 2


def share_taken_over(result: Result) -> float:
    """Of the answers that the meta began itself."""
    [line] = [line for line in result.stdout.splitlines() if line.startswith("mid-answer hand-overs: in ")]
    num_taken_over, num_answers = (int(word) for word in line.split() if word.isdigit())
    return num_taken_over / num_answers


def test_false_hand_overs_are_reported_by_the_kind_of_general_query(config: Path, data: Path):
    assert "false hand-overs: 0 of 6 short, 0 of 0 long, 0 of 0 neighbouring general queries" in (
        learn(config, data).stdout
    )


def test_general_queries_of_the_meta_are_learned_from_by_default_and_counted(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
):
    config = write_asking_cluster(tmp_path, tmp_path_factory)
    asked = [query(question, "chemistry") for question in ELEMENTS]
    others = [query(f"{name} {i}", name) for name in ("adapted", "distant") for i in range(3)]
    data = write_data(tmp_path / "queries.jsonl", [*asked, *others, query("nice day", None)])
    result = run("learn", config, "--data", data, "--negatives", 9, "--mid-answer", "ignore")
    assert result.exit_code == 0, result.output
    [line] = [line for line in result.stdout.splitlines() if line.startswith("general queries that the meta")]
    assert int(line.split(";")[0].split()[-1]) > 0


def test_queries_without_labels_are_given_to_the_models_that_answer_them_best(config: Path, data: Path):
    truth = [query.expert for query in read_queries(data)]
    write_data(data, answered(), unlabelled=[*EXPERTS, None])
    result = learn(config, data)
    assert "120 queries without a label: " in result.stdout
    for name in (*EXPERTS, "(no expert)"):
        assert f"{name} 30" in result.stdout
    assigned = data.with_name("queries.assigned.jsonl")
    assert str(assigned) in result.stdout.replace("\n", "")
    assert [query.expert for query in read_queries(assigned)] == truth
    scores = json.loads(assigned.read_text().splitlines()[1])["nll_per_byte"]
    assert min(scores, key=scores.__getitem__) == truth[1]
    assert set(scores) == {"meta", *EXPERTS}
    from_implicit = tokens(config)
    learn(config, assigned)
    for name, token in tokens(config).items():
        assert token.vector.tolist() == from_implicit[name].vector.tolist()


def test_the_labelled_set_goes_to_the_named_file_but_not_over_the_data(config: Path, data: Path):
    write_data(data, answered(), unlabelled=["roman"])
    before = data.read_bytes()
    assert "is the data itself; use --assigned to name another file" in refused(
        config, data, "--assigned", data
    )
    learn(config, data, "--assigned", data.with_name("mine.jsonl"))
    assert sum(query.expert == "roman" for query in read_queries(data.with_name("mine.jsonl"))) == 30
    assert data.read_bytes() == before
    assert not data.with_name("queries.assigned.jsonl").exists()


def test_a_margin_that_no_expert_reaches_is_refused_by_the_experts_names(config: Path, data: Path):
    write_data(data, answered(), unlabelled=EXPERTS)
    complaint = refused(config, data, "--margin", "100")
    assert complaint.startswith(f"{data}: at a margin of 100 nats per byte")
    for name in EXPERTS:
        assert f"expert '{name}'" in complaint


def test_the_call_bias_for_a_rate_is_printed_or_written(config: Path, data: Path):
    set_in(config, 0.75)
    text = config.read_text()
    printed = learn(config, data, "--false-trigger-rate", "0.01")
    assert "routing: {call_bias: " in printed.stderr
    assert config.read_text() == text
    written = learn(config, data, "--false-trigger-rate", "0.01", "--write")
    found = load_config(config).routing.call_bias
    assert found != 0.75
    assert f"routing.call_bias is now {found:g}" in written.stdout
    assert config.read_text() == text.replace("0.75", f"{found!r}")
    assert run("learn", config, "--data", data, "--write").exit_code == 2


def test_a_false_trigger_rate_holds_on_the_held_out_queries(config: Path, data: Path):
    # Every third question about dots has no expert, and cannot be told apart from Morse's.
    queries = answered(0, 90)
    dots = [index for index, query in enumerate(queries) if "dot" in query.messages[0]["content"]]
    for index in dots[::3]:
        queries[index] = replace(queries[index], expert=None)
    write_data(data, queries)
    assert share_not_handed_over(learn(config, data)) < 1
    assert share_not_handed_over(learn(config, data, "--false-trigger-rate", "0")) == 1


def share_not_handed_over(result: Result) -> float:
    (row,) = [line for line in result.stdout.splitlines() if "(no expert)" in line]
    return float(row.split()[6])


def set_in(config: Path, call_bias: float) -> None:
    text = config.read_text()
    for name in EXPERTS:  # the file must be whole to be edited
        (config.parent / "tokens").mkdir(exist_ok=True)
        (config.parent / "tokens" / f"{name}.safetensors").touch()
    set_value(config, ("routing", "call_bias"), call_bias)
    shutil.rmtree(config.parent / "tokens")
    assert config.read_text() != text


def test_a_warning_says_that_the_scores_do_not_include_the_call_bias(config: Path, data: Path):
    assert "warning" not in learn(config, data).stderr
    set_value(config, ("routing", "call_bias"), -3.5)
    assert "these scores do not include routing.call_bias, which is -3.5" in learn(config, data).stderr


def test_with_a_held_out_share_of_0_the_table_names_the_training_queries(config: Path, data: Path):
    assert "routing on the queries that it was learned from" in learn(config, data, "--held-out", "0").stdout
    assert "train_accuracy" in tokens(config)["roman"].scores


def test_labels_that_do_not_fit_the_experts_are_refused_with_the_file(config: Path, data: Path):
    write_data(data, [*answered(), query("rain?", "weather")])
    assert f"{data}: line 121: unknown expert 'weather'; use one of chemistry, " in refused(config, data)
    write_data(data, [query for query in answered() if query.expert != "morse"])
    assert refused(config, data).startswith(f"{data}: no query names expert 'morse'")
    data.write_text("{\n")
    assert refused(config, data).startswith(f"{data}: 1 of 1 rows are broken")


def test_rows_that_are_broken_in_different_ways_are_listed_together(config: Path, data: Path):
    add_broken_rows(data)
    assert refused(config, data).splitlines()[0].startswith(f"{data}: 4 of 124 rows are broken; correct or")
    causes = [line.split(": ")[1:3] for line in refused(config, data).splitlines()[1:]]
    assert [place for place, _ in causes] == ["line 121", "line 122", "line 123", "line 124"]
    for found, wanted in zip(
        causes, ("not JSON", "unknown expert", "no reference", "tokens, but the"), strict=True
    ):
        assert wanted in found[1]


def test_broken_rows_are_skipped_on_demand_and_counted(config: Path, data: Path):
    learn(config, data)
    wanted = tokens(config)
    add_broken_rows(data)
    result = learn(config, data, "--skip-broken")
    assert f"warning: {data}: line 121: not JSON" in result.stderr
    assert f"warning: {data}: 4 of 124 rows are broken; skipped" in result.stderr
    assert "learned from 96 queries" in result.stdout
    for name, token in tokens(config).items():
        assert token.vector.tolist() == wanted[name].vector.tolist()


def add_broken_rows(data: Path) -> None:
    rows = [
        "{",
        json.dumps({"instruction": "rain?", "expert": "weather"}),
        json.dumps({"instruction": "who answers this?"}),
        json.dumps({"instruction": "word " * 200, "expert": "roman"}),
    ]
    data.write_text("\n".join([*data.read_text().splitlines(), *rows]))


def test_a_folder_with_other_states_is_refused_by_name(config: Path, data: Path, tmp_path: Path):
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
    assert "cannot write the token of 'morse': " in refused(config, data)
    config.write_text(text[: text.index("experts:")])
    assert "experts: none to learn a token for; add one" in refused(config, data)


def test_the_defaults_are_those_of_the_library():
    assert learn_options.MARGIN == DEFAULT_MARGIN
    assert learn_options.HELD_OUT_SHARE == DEFAULT_HELD_OUT_SHARE

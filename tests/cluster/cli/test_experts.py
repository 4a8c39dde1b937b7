"""`etr experts add`: learns the new expert's token, checks that it harms no other expert, and writes it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.cli.main import app as etr
from cluster.config.cluster_config import load_config
from cluster.config.config_editor import set_value
from experts.learn import Query, read_queries
from experts.token import ExpertToken
from tests.tiny.adapters import write_adapter
from tests.tiny.taught_cluster import ANSWERS, answered, taught_models, write_cluster, write_data
from tests.tiny.taught_meta import EXPERTS, query

INCUMBENTS = ("chemistry", "roman")
FROM_DATA = ("--negatives", 0)  # the tiny meta knows nothing of users


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster of two experts with their tokens, and the model of a third."""
    folder = tmp_path_factory.mktemp("learned")
    config = write_cluster(folder, taught_models(tmp_path_factory), INCUMBENTS)
    data = write_data(folder / "old.jsonl", without(answered(), "morse"))
    assert run("learn", config, "--data", data, *FROM_DATA, "--mid-answer", "ignore").exit_code == 0
    return folder


@pytest.fixture
def config(learned: Path, tmp_path: Path) -> Path:
    shutil.copytree(learned, tmp_path / "cluster")
    return tmp_path / "cluster" / "cluster.yaml"


@pytest.fixture
def data(config: Path) -> Path:
    return write_data(config.parent / "new.jsonl", answered(30))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(etr, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def add(config: Path, data: Path, *options: object, name: str = "morse") -> Result:
    model = config.parent / "models" / "morse"
    return run(
        "experts", "add", name, "--model", model, "--config", config, "--data", data, *FROM_DATA, *options
    )


def refused(config: Path, data: Path, *options: object, name: str = "morse") -> str:
    """The lines that say why; neither config nor tokens may have changed."""
    before = contents(config)
    result = add(config, data, *options, name=name)
    assert result.exit_code == 1, result.output
    assert contents(config) == before
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return "\n".join(line.removeprefix("error: ") for line in lines)


def contents(config: Path) -> dict[Path, bytes]:
    """All files but the cache of states."""
    files = [path for path in config.parent.rglob("*") if path.is_file() and ".etr" not in path.parts]
    return {path: path.read_bytes() for path in files}


def without(queries: Sequence[Query], *names: str) -> list[Query]:
    return [query for query in queries if query.expert not in names]


def row(result: Result, name: str) -> list[str]:
    """The expert's row of the first table: its queries, accuracy before, and after."""
    line = next(line for line in result.stdout.splitlines() if line.startswith(f"│ {name} "))
    return line.replace("│", " ").split()[1:]


def test_a_new_expert_is_learned_and_written_into_the_config(config: Path, data: Path):
    before, text = contents(config), config.read_text()
    result = add(config, data, "--num-cpus", "0.5")
    assert result.exit_code == 0, result.output
    assert row(result, "morse") == ["6", "0.000", "1.000"]
    assert [row(result, name) for name in INCUMBENTS] == [["6", "1.000", "1.000"]] * 2
    assert "0 → 6" in result.stdout
    assert "warning" not in result.stderr
    assert f"etr apply {config}" in result.stdout.replace("\n", "")

    entry = (
        "  morse:\n    model: {path: models/morse}\n    resources: {num_cpus: 0.5}\n"
        "    token: tokens/morse.safetensors\n"
    )
    assert config.read_text() == text.replace("routing:", f"{entry}routing:")
    after = contents(config)
    token = config.parent / "tokens" / "morse.safetensors"
    assert after.keys() - before.keys() == {token}
    assert {path for path in before if before[path] != after[path]} == {config}
    assert ExpertToken.load(token).scores["held_out_accuracy"] == 1
    assert load_config(config).local_experts["morse"].resources.num_cpus == 0.5


def test_a_dry_run_shows_the_same_and_writes_only_its_report(config: Path, data: Path, tmp_path: Path):
    before = contents(config)
    report = tmp_path / "added.json"
    result = add(config, data, "--dry-run", "--report", report)
    assert result.exit_code == 0, result.output
    changed = json.loads(report.read_text(encoding="utf-8"))
    assert (changed["added"], changed["num_queries"]) == ("morse", changed["num_held_out"])
    assert (changed["before"]["accuracy"]["morse"], changed["after"]["accuracy"]["morse"]) == (0, 1)
    assert row(result, "morse") == ["6", "0.000", "1.000"]
    assert "dry run: 'morse' would be added" in result.stdout
    assert contents(config) == before


def test_a_new_expert_learns_from_the_middle_of_answers_unless_they_are_ignored(config: Path, data: Path):
    first, late, ignoring = (
        add(config, data, "--dry-run", *options)
        for options in ((), ("--mid-answer", "late"), ("--mid-answer", "ignore"))
    )
    for result in (first, late, ignoring):
        assert result.exit_code == 0, result.output
        assert row(result, "morse") == ["6", "0.000", "1.000"]
    written = ["own answers: " in result.stderr for result in (first, late, ignoring)]
    assert written == [True, False, False]
    # The answers are part of what was learned from, and so is what is wanted in their middle.
    num_of_incumbents = 1
    assert len(list(config.parent.glob(".etr/states/*/*/manifest.json"))) == num_of_incumbents + 3
    assert num_taken_over(first) < num_taken_over(late)
    assert "mid-answer" not in ignoring.stdout


def num_taken_over(result: Result) -> int:
    """Of the answers that the meta began itself."""
    [line] = [line for line in result.stdout.splitlines() if line.startswith("mid-answer hand-overs: in ")]
    return int(line.split()[3])


def test_a_new_experts_queries_need_no_labels(config: Path, data: Path):
    write_data(data, answered(30), unlabelled=["morse", None])
    assert "morse 30" in add(config, data, "--dry-run").stdout
    assigned = data.with_name("new.assigned.jsonl")
    assert not assigned.exists()
    result = add(config, data)
    assert result.exit_code == 0, result.output
    assert [query.expert for query in read_queries(assigned)] == [query.expert for query in answered(30)]
    assert row(result, "morse") == ["6", "0.000", "1.000"]


def test_a_warning_names_incumbents_without_a_query(config: Path, data: Path):
    write_data(data, without(answered(30), "roman"), unlabelled=["morse", None])
    result = add(config, data)
    assert result.exit_code == 0, result.output
    assert "warning: no held-out query is for expert 'roman'" in result.stderr
    assert "'chemistry'" not in result.stderr
    assert row(result, "roman") == ["0"]


def greedy(config: Path) -> Path:
    """Most questions in Roman's own words are labelled for the new expert."""
    mine = [
        replace(query, expert="morse", response=ANSWERS["morse"])
        for query in answered(90, 90)
        if query.expert == "roman"
    ]
    return write_data(config.parent / "greedy.jsonl", [*without(answered(30), "morse"), *mine])


def test_a_new_expert_that_takes_an_incumbents_queries_is_refused(config: Path):
    complaint = refused(config, greedy(config))
    assert "expert 'morse' takes queries from 'roman': its accuracy would fall from 1.000 to 0." in complaint
    assert "on 6 held-out queries, more than the tolerance of 0.005" in complaint
    assert "raise --tolerance; nothing was written" in complaint


def test_a_refusal_shows_the_scores_and_a_higher_tolerance_accepts_them(config: Path):
    data = greedy(config)
    assert row(add(config, data), "roman")[1] == "1.000"
    result = add(config, data, "--tolerance", "1")
    assert result.exit_code == 0, result.output
    assert "morse" in load_config(config).experts


def test_a_new_expert_that_gets_no_query_is_refused(config: Path, data: Path):
    few = [replace(query, expert="morse") for query in answered(200, 2) if query.expert == "roman"]
    write_data(data, [*without(answered(30, 60), "morse"), *few])
    assert "expert 'morse' gets none of its 1 held-out queries: most (1) are handed to 'roman'" in refused(
        config, data
    )
    write_data(data, [*without(answered(30), "morse"), few[0]])
    assert "expert 'morse' has no held-out query to judge it by" in refused(config, data)
    assert "expert 'morse' has no held-out query" in refused(config, data, "--held-out", "0")


def test_the_clusters_own_routing_settings_are_applied(config: Path, data: Path):
    set_value(config, ("routing", "call_bias"), -1e6)
    assert "gets none of its 6 held-out queries: most (6) stay with the meta" in refused(config, data)
    set_value(config, ("routing", "call_bias"), 0.0)
    set_value(config, ("routing", "when"), "start")
    greeted = [query for query in answered(30) if query.written or query.expert != "morse"]
    write_data(data, greeted)
    assert "gets none of its 1 held-out queries: most (1) stay" in refused(config, data)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("roman", "experts.roman: exists already; choose another name"),
        ("meta", "experts: the name 'meta' is reserved"),
        ("Morse Code", "experts: 'Morse Code' is not a valid expert name"),
        ("../x", "experts: '../x' is not a valid expert name"),
    ],
)
def test_a_name_that_is_not_valid_is_refused_before_learning(config, data, name, complaint):
    assert refused(config, data, name=name).startswith(f"{config}: {complaint}")
    num_of_incumbents = 1
    assert len(list(config.parent.glob(".etr/states/*/*/manifest.json"))) == num_of_incumbents


def test_labels_must_name_the_new_expert_or_an_incumbent(config: Path, data: Path):
    write_data(data, [*answered(30), query("rain?", "weather")])
    complaint = refused(config, data)
    assert complaint.endswith(
        f"{data}: line 121: unknown expert 'weather'; use one of chemistry, morse, roman"
    )
    skipped = add(config, data, "--skip-broken", "--dry-run")
    assert skipped.exit_code == 0, skipped.output
    assert f"warning: {data}: 1 of 121 rows are broken; skipped" in skipped.stderr
    write_data(data, without(answered(30), "morse"))
    assert refused(config, data).startswith(f"{data}: no query names expert 'morse'")


def test_no_existing_token_file_is_overwritten(config: Path, data: Path):
    tokens = config.parent / "tokens"
    assert "is the token of expert 'roman'" in refused(config, data, "--token", tokens / "roman.safetensors")
    (tokens / "morse.safetensors").write_bytes(b"precious")
    assert "morse.safetensors exists and another cluster may use it; use --token, or remove it" in refused(
        config, data
    )
    result = add(config, data, "--token", config.parent.parent / "elsewhere.safetensors")
    assert result.exit_code == 0, result.output
    assert load_config(config).experts["morse"].token == str(config.parent.parent / "elsewhere.safetensors")


def test_the_token_of_another_config_in_the_same_folder_is_not_overwritten(config: Path, data: Path):
    """Regression: the default token file was overwritten although another cluster served it."""
    assert add(config, data).exit_code == 0
    token = config.parent / "tokens" / "morse.safetensors"
    other = config.with_name("other.yaml")
    other.write_text(config.read_text())
    assert run("experts", "remove", "morse", "--config", other, "--no-apply").exit_code == 0
    assert f"{token} exists and another cluster may use it" in refused(other, data)
    own = config.parent / "tokens" / "other" / "morse.safetensors"
    result = add(other, data, "--token", own)
    assert result.exit_code == 0, result.output
    assert own.exists()


def test_a_model_that_is_not_there_is_refused(config: Path, data: Path):
    shutil.rmtree(config.parent / "models" / "morse")
    assert refused(config, data).startswith(f"{config}: experts.morse.model.path: no such folder")


def test_incumbents_of_another_meta_are_refused(config: Path, data: Path):
    path = config.parent / "tokens" / "roman.safetensors"
    replace(ExpertToken.load(path), meta_fingerprint="0" * 16).save(path)
    assert "experts.roman.token: expert token 'roman' was learned for meta" in refused(config, data)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ((), "give exactly one of --model, --hub and --adapter"),
        (("--model", "x", "--hub", "a/b"), "give exactly one of --model, --hub and --adapter"),
        (("--model", "x", "--revision", "main"), "--revision has no effect without --hub"),
        (("--adapter", "x"), "--adapter and --pool need each other"),
        (("--model", "x", "--pool", "base"), "--adapter and --pool need each other"),
        (("--adapter", "x", "--pool", "base", "--num-cpus", "1"), "an adapter uses the replicas of its pool"),
        (("--adapter", "x", "--pool", "base", "--approximate"), "has an effect only with --pool meta"),
    ],
)
def test_a_model_comes_from_one_place(config, data, options, complaint):
    result = run("experts", "add", "morse", "--config", config, "--data", data, *options)
    assert result.exit_code == 2
    assert complaint in result.stderr


def test_a_model_of_the_hub_is_written_with_its_revision(config: Path, data: Path):
    options = ("--hub", "org/morse", "--revision", "v1", "--num-gpus", "1", *FROM_DATA)
    result = run("experts", "add", "morse", "--config", config, "--data", data, *options)
    assert result.exit_code == 0, result.output
    block = load_config(config).local_experts["morse"]
    assert block.model.model_dump(exclude_defaults=True) == {"hub": "org/morse", "revision": "v1"}
    assert block.resources.num_gpus == 1


def test_an_adapter_is_added_to_its_pool(config: Path, data: Path):
    width = json.loads((config.parent / "models" / "morse" / "config.json").read_text())["hidden_size"]
    adapter = write_adapter(config.parent / "adapters" / "morse", width=width)
    engine = {"kind": "vllm", "max_adapters": 2}
    set_value(config, ("pools",), {"base": {"model": {"path": "models/morse"}, "engine": engine}})
    options = ("--adapter", adapter, "--pool", "base", "--config", config, "--data", data, *FROM_DATA)
    result = run("experts", "add", "morse", *options)
    assert result.exit_code == 0, result.output
    assert "    adapter: {path: adapters/morse, pool: base}\n" in config.read_text()
    assert load_config(config).adapter_experts["morse"].adapter.pool == "base"
    scaled = run("scale", "base", "--max", "3", "--config", config, "--no-apply")
    assert scaled.exit_code == 0, scaled.output
    assert load_config(config).pools["base"].autoscaling.max_replicas == 3
    refused = run("scale", "morse", "--max", "3", "--config", config, "--no-apply")
    assert "'morse' uses the replicas of its pool; use: etr scale base" in refused.stderr


def test_an_ordinary_adapter_is_added_to_the_meta(config: Path, data: Path):
    width = json.loads((config.parent / "models" / "meta" / "config.json").read_text())["hidden_size"]
    adapter = write_adapter(config.parent / "adapters" / "morse", width=width)
    set_value(config, ("meta", "engine"), {"max_adapters": 1})
    where = ("--adapter", adapter, "--pool", "meta", "--approximate")
    result = run("experts", "add", "morse", *where, "--config", config, "--data", data, *FROM_DATA)
    assert result.exit_code == 0, result.output
    assert "adapter: {path: adapters/morse, pool: meta, invocation: approximate}" in config.read_text()


def test_the_first_expert_of_a_cluster_can_be_added_too(config: Path, data: Path):
    config.write_text("meta: {model: {path: models/meta}}\nexperts: {}\n")
    write_data(data, without(answered(), *INCUMBENTS))
    result = add(config, data)
    assert result.exit_code == 0, result.output
    assert set(load_config(config).experts) == {"morse"}
    assert set(EXPERTS) - {"morse"} == set(INCUMBENTS)

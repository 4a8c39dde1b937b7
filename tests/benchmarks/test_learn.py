"""The learning benchmark: its quick run, without the toy world, and its baseline."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.learn import __main__ as learn
from benchmarks.learn.many_experts import many_experts
from benchmarks.learn.metas import Meta, wide_meta
from benchmarks.learn.published import train_recipe
from benchmarks.learn.questions import draw_queries
from benchmarks.learn.report import as_json
from benchmarks.learn.setting import Setting
from benchmarks.learn.whole_model import collate
from experts.learn.fit import fit_tokens
from experts.learn.hidden_states import States, compute_states
from experts.learn.loss import TokenLoss
from experts.learn.targets import find_targets


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    cache = tmp_path_factory.mktemp("bench")
    return Setting(quick=True, toy=Path("does-not-exist"), cache=cache)


@pytest.fixture(scope="module")
def meta(setting: Setting) -> Meta:
    return wide_meta(setting)


@pytest.fixture(scope="module")
def queries():
    return draw_queries("test", num_per_expert=12, num_general=24)


@pytest.fixture(scope="module")
def states(meta: Meta, queries) -> States:
    return compute_states(meta.model, meta.renderer, queries)


def test_a_quick_run_prints_tables_and_then_one_line_of_json(setting, meta, monkeypatch, capsys):
    sections = ["exact", "recipe", "many_experts", "step"]
    options = [word for name in sections for word in ("--only", name)]
    where = ["--cache", str(setting.cache), "--num-threads", "1"]
    monkeypatch.setattr(sys, "argv", ["learn", "--quick", *where, *options])
    learn.main()
    lines = capsys.readouterr().out.strip().splitlines()
    results = json.loads(lines[-1])
    assert [name for name in results if name in sections] == sections
    for name in sections:
        assert any(line.startswith(name) for line in lines), name
    for difference in ("loss_difference", "weight_gradient_difference", "bias_gradient_difference"):
        assert 0 <= results["exact"][difference] <= 1e-5
    assert results["recipe"]["loss_difference"] <= 0
    assert results["many_experts"]["held_out_accuracy"] >= 0.9
    assert results["step"]["ratio_alone"] > 0


def test_the_recipe_trains_rows_without_bias_and_leaves_the_meta_alone(meta, queries, states):
    before = {name: value.clone() for name, value in meta.model.state_dict().items()}
    rows = train_recipe(meta, queries)
    assert rows.shape == (6, states.hidden.shape[1])
    for name, value in meta.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    loss, no_bias = TokenLoss(states, states.expert_names), torch.zeros(6, dtype=torch.float64)
    trained = loss(rows.double(), no_bias)[0]
    assert trained < loss(states.head_mean.double().repeat(6, 1), no_bias)[0]
    tokens = fit_tokens(states).tokens
    weight = torch.stack([token.vector for token in tokens]).double()
    bias = torch.tensor([token.bias for token in tokens], dtype=torch.float64)
    assert loss(weight, bias)[0] < trained


def test_both_methods_learn_from_the_same_positions(meta, queries, states):
    targets = [find_targets(query, meta.renderer, states.expert_names) for query in queries]
    batch = collate(targets, meta.num_words)
    expert = batch["goal"] - meta.num_words
    assert expert.clamp(min=-1).tolist() == states.expert.tolist()
    assert (
        batch["ids"].shape
        == batch["mask"].shape
        == (len(queries), max(len(target.ids) for target in targets))
    )
    chosen = batch["mask"][batch["row"], batch["column"]]
    assert bool(chosen.all())


def test_held_out_queries_are_not_learned_from(queries):
    held_out = draw_queries("other seed", num_per_expert=60, num_general=300, held_out=True)
    learned_from = draw_queries("test", num_per_expert=300, num_general=700)
    asked = {query.messages[0]["content"] for query in learned_from}
    assert len(learned_from) == 6 * 300 + 700
    assert asked.isdisjoint(query.messages[0]["content"] for query in held_out)


def test_synthetic_experts_are_the_same_every_time(setting):
    first, second = as_json(many_experts(setting)), as_json(many_experts(setting))
    del first["fit_s"], second["fit_s"]
    assert first == second

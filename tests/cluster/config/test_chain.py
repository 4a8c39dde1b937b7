"""`routing.chain` in cluster.yaml: what a chain needs, and what can never have an effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.config.unused_settings import unused_settings
from cluster.errors import ConfigError
from cluster.serve.deploy_config import build_serve_config
from deployments.model import ModelSettings
from experts.token import ExpertToken
from router.chain_rules import CHAIN_STOP
from router.table import RouteTable
from tests.cluster.config.test_shadows import load, user_configs
from tests.cluster.serve.test_deploy_config import make_token, make_world


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Any]:
    world = make_world(tmp_path, "law", "chem")
    make_token(tmp_path, CHAIN_STOP, seed=7)
    world["routing"] = {"after_expert": "chain"}
    return world


def test_the_rules_of_a_chain_are_in_the_route_table(tmp_path, world):
    world["routing"]["chain"] = {"prompt": "{{ answer }}? {{ question }}", "max_hops": 2, "reveal": True}
    table = RouteTable.model_validate(user_configs(load(tmp_path, world))["router"])
    assert (table.after_expert, table.chain.max_hops, table.chain.reveal) == ("chain", 2, True)
    assert table.chain.render("Why", "So") == "So? Why"
    assert not table.has_chain_stop


def test_without_a_chain_nothing_of_it_is_sent(tmp_path, world):
    del world["routing"]
    assert not {"chain", "has_chain_stop"} & user_configs(load(tmp_path, world))["router"].keys()


def test_the_stop_token_is_installed_beside_those_of_experts(tmp_path, world):
    world["routing"]["chain"] = {"stop_token": f"tokens/{CHAIN_STOP}.safetensors"}
    found = user_configs(load(tmp_path, world))
    tokens = ModelSettings.model_validate(found["meta"]).tokens or {}
    assert [*tokens] == ["chem", "law", CHAIN_STOP]
    assert ExpertToken.from_inline(tokens[CHAIN_STOP]).name == CHAIN_STOP
    table = RouteTable.model_validate(found["router"])
    assert (table.has_chain_stop, [*table.experts]) == (True, ["chem", "law"])


@pytest.mark.parametrize(
    ("routing", "problem"),
    [
        ({"chain": {"max_hops": 1}}, "routing.chain.max_hops: should be greater than or equal to 2"),
        ({"chain": {"hops": 2}}, "routing.chain.hops: unknown key; did you mean 'max_hops'?"),
        ({"chain": {"max_hops": 5}}, "chain.max_hops 5 has no effect above max_handoffs 4"),
        ({"max_handoffs": 1}, "after_expert: chain has no effect with max_handoffs 1"),
        ({"after_expert": "return", "chain": {}}, "chain has no effect with after_expert: return; remove it"),
        ({"chain": {"prompt": "{{ question }}"}}, "routing.chain.prompt: does not use answer"),
        ({"chain": {"prompt": "{{ answer }}"}}, "routing.chain.prompt: does not use question"),
        (
            {"chain": {"prompt": "{{ question }} {{ answer }} {{ author }}"}},
            "routing.chain.prompt: unknown variable 'author'; use question and answer",
        ),
        ({"chain": {"prompt": "{{ question }} {{ answer"}}, "routing.chain.prompt: not a valid template"),
        ({"chain": {"prompt": "{{ question }}{{ answer | nope }}"}}, "not a valid template: No filter"),
        ({"chain": {"prompt": "{{ question }}{{ answer / 2 }}"}}, "not a valid template: "),
        ({"chain": {"prompt": "{{ question.__class__.mro() }}{{ answer }}"}}, "is unsafe"),
        ({"chain": {"stop_token": "tokens/no.safetensors"}}, "routing.chain.stop_token: no such file"),
    ],
)
def test_what_a_chain_cannot_have_is_refused(tmp_path, world, routing, problem):
    world["routing"] |= routing
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, world)
    assert problem in str(caught.value)


def test_the_token_of_an_expert_is_no_stop_token(tmp_path, world):
    world["routing"]["chain"] = {"stop_token": "tokens/law.safetensors"}
    with pytest.raises(ConfigError, match=r"routing\.chain\.stop_token: .* is the token of expert 'law'"):
        build_serve_config(load(tmp_path, world))


def test_a_stop_token_of_another_meta_is_refused(tmp_path, world):
    make_token(tmp_path, CHAIN_STOP, seed=7, meta="law")
    world["routing"]["chain"] = {"stop_token": f"tokens/{CHAIN_STOP}.safetensors"}
    with pytest.raises(ConfigError, match=r"routing\.chain\.stop_token: expert token 'chain-stop' was"):
        build_serve_config(load(tmp_path, world))


def test_no_expert_may_have_the_name_of_the_stop_token(tmp_path, world):
    world["experts"][CHAIN_STOP] = world["experts"].pop("law")
    with pytest.raises(ConfigError, match="the name 'chain-stop' is reserved"):
        load(tmp_path, world)


def test_a_chain_of_one_expert_has_no_effect(tmp_path, world):
    assert not [line for line in unused_settings(load(tmp_path, world)) if "chain" in line]
    del world["experts"]["chem"]
    assert [line for line in unused_settings(load(tmp_path, world)) if "fewer than two experts" in line]

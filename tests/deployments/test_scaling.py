"""How many replicas a model needs, by Serve's count of requests or by its tokens."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray import cloudpickle
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.autoscaling_policy import _apply_autoscaling_config, replica_queue_length_autoscaling_policy
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from deployments.model import ModelServer
from deployments.scaling import POLICY, TOKEN_LOAD
from experts.engine.base import EngineStats
from tests.fakes.grpc_replica import ScriptedEngine

DEPLOYMENT = DeploymentID("Model", "expert-roman")
SHARES = st.floats(0, 50)


def config(**knobs: Any) -> AutoscalingConfig:
    knobs = {"min_replicas": 0, "max_replicas": 100, "upscale_delay_s": 0, "downscale_delay_s": 0} | knobs
    return AutoscalingConfig(policy={"policy_function": POLICY}, target_ongoing_requests=10, **knobs)


def context(
    settings: AutoscalingConfig, running: int, requests: float, loads: list[float] | None
) -> AutoscalingContext:
    """What Serve's controller passes to a policy; `loads` is None before any replica has reported."""
    replicas = [ReplicaID(str(number), DEPLOYMENT) for number in range(running)]
    metrics = {TOKEN_LOAD: dict(zip(replicas, loads, strict=False))} if loads is not None else {}
    return AutoscalingContext(
        deployment_id=DEPLOYMENT,
        deployment_name=DEPLOYMENT.name,
        app_name=DEPLOYMENT.app_name,
        current_num_replicas=running,
        target_num_replicas=running,
        running_replicas=replicas,
        total_num_requests=requests,
        total_queued_requests=0.0,
        aggregated_metrics=lambda: metrics,
        raw_metrics=None,
        capacity_adjusted_min_replicas=settings.min_replicas,
        capacity_adjusted_max_replicas=settings.max_replicas,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=None,
        config=settings,
    )


def decision(
    settings: AutoscalingConfig, running: int, requests: float, loads: list[float] | None = None
) -> int:
    """As Serve's controller decides: the unpickled policy inside its own delays and factors."""
    decide = _apply_autoscaling_config(settings.policy.get_policy())
    return decide(context(settings, running, requests, loads))[0]


@pytest.mark.parametrize(
    ("running", "requests", "loads", "expected"),
    [
        (1, 4.0, [0.3], 1),  # neither asks for more
        (1, 25.0, [0.3], 3),  # requests do
        (1, 4.0, [2.4], 3),  # a few long ones do
        (2, 4.0, [1.6, 1.5], 4),  # the tokens of all replicas together
        (3, 12.0, [0.1, 0.1, 0.1], 2),  # down to what requests still want
        (3, 2.0, [0.9, 0.8, 0.1], 2),  # down to what tokens still want
        (1, 0.0, [0.0], 0),  # nothing is left
    ],
)
def test_the_larger_number_of_replicas_wins(running: int, requests: float, loads: list[float], expected: int):
    assert decision(config(), running, requests, loads) == expected


@given(
    running=st.integers(0, 20),
    requests=SHARES,
    loads=st.one_of(st.none(), st.just([]), st.just([0.0] * 20)),
    factor=st.floats(0.1, 3),
)
def test_without_a_token_load_the_result_is_that_of_serves_policy(
    running: int, requests: float, loads: list[float] | None, factor: float
):
    settings = config(upscaling_factor=factor, downscaling_factor=factor)
    own = _apply_autoscaling_config(replica_queue_length_autoscaling_policy)
    expected, _ = own(context(settings, running, requests, None))
    assert decision(settings, running, requests, loads) == expected


@given(running=st.integers(1, 5), requests=SHARES, loads=st.lists(SHARES, max_size=5))
def test_a_token_load_never_reduces_the_number_of_replicas(running: int, requests: float, loads: list[float]):
    assert decision(config(), running, requests, loads) >= decision(config(), running, requests)


def test_from_zero_one_request_wakes_one_replica_at_once():
    slow = config(upscale_delay_s=1000)
    assert decision(slow, 0, 1.0) == 1
    assert decision(slow, 0, 0.0) == 0


def test_serves_delays_and_factors_apply_to_tokens_too():
    assert decision(config(upscale_delay_s=1000), 1, 1.0, [5.0]) == 1
    assert decision(config(downscale_delay_s=1000), 5, 0.0, [0.1]) == 5
    assert decision(config(upscaling_factor=0.5), 1, 1.0, [5.0]) == 3


def test_the_controller_runs_the_policy_without_our_modules(monkeypatch: pytest.MonkeyPatch):
    settings = config()
    for module in ("deployments", "deployments.scaling"):
        monkeypatch.setitem(sys.modules, module, None)  # importing them fails from here on
    policy = cloudpickle.loads(settings.policy.get_serialized_policy_def() or b"")
    assert policy(context(settings, 1, 1.0, [2.5])) == (2.5, {})


@dataclass
class BusyEngine(ScriptedEngine):
    num_tokens_in_flight: int = 0

    def stats(self) -> EngineStats:
        return EngineStats(1, 0, 0.5, 0, self.num_tokens_in_flight)


async def test_a_replica_reports_its_tokens_as_a_fraction_of_the_current_target():
    engine = BusyEngine([], num_tokens_in_flight=300)
    server = ModelServer(engine)
    assert await server.record_autoscaling_stats() == {TOKEN_LOAD: 0.0}
    await server.reconfigure({"target_tokens_in_flight": 200})
    assert await server.record_autoscaling_stats() == {TOKEN_LOAD: 1.5}
    await server.reconfigure({"target_tokens_in_flight": 600})
    engine.num_tokens_in_flight = 150
    assert await server.record_autoscaling_stats() == {TOKEN_LOAD: 0.25}
    await server.reconfigure({"target_tokens_in_flight": None})
    assert await server.record_autoscaling_stats() == {TOKEN_LOAD: 0.0}


async def test_settings_without_tokens_keep_the_installed_tokens():
    engine = ScriptedEngine([])
    server = ModelServer(engine)
    await server.reconfigure({"target_tokens_in_flight": 200})
    assert engine.tokens == {}
    await server.reconfigure({"target_tokens_in_flight": 200, "table_version": 3, "tokens": {}})
    assert engine.tokens == {1: []}

"""Deploy configs of benchmarks whose models have no weights."""

from __future__ import annotations

from functools import partial

import pytest

from benchmarks.relay.deploy import deploy_config as relay_config
from benchmarks.scale.real import deploy_config as paced_config


@pytest.mark.parametrize(
    ("deploy_config", "module", "replaced"),
    [
        (partial(paced_config, step_s=1.0), "benchmarks.scale.paced", {"meta", "expert-writer"}),
        (
            partial(relay_config, step_s=0.0, span_url="http://127.0.0.1:9"),
            "benchmarks.relay",
            {"meta", "bare"},
        ),
    ],
)
def test_models_without_weights_are_applications_of_the_benchmark(tmp_path, deploy_config, module, replaced):
    applications = deploy_config(tmp_path)["applications"]
    assert {app["name"] for app in applications if app["import_path"].startswith(module)} == replaced
    assert [app["name"] for app in applications if app["name"] == "router"] == ["router"]

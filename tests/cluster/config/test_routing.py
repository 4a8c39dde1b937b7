"""Settings of `routing` that limit each other."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from cluster.config.routing import RoutingConfig


@pytest.mark.parametrize("routing", [{"retries": 9}, {"retries": 2, "max_resumes": 1}])
def test_retries_above_max_resumes_are_refused(routing: dict[str, Any]):
    with pytest.raises(ValidationError, match="has no effect above max_resumes"):
        RoutingConfig.model_validate(routing)


def test_a_low_max_resumes_does_not_conflict_with_the_default_of_retries():
    assert RoutingConfig.model_validate({"max_resumes": 0}).retries == 2

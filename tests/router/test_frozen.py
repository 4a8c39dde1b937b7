"""Settings that another release has written."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from pydantic import ValidationError

from router.frozen import read_settings
from router.table import RouteTable

TABLE: dict[str, Any] = {
    "table_version": 1,
    "name": "g",
    "meta": {"app": "meta"},
    "experts": {"law": {"app": "law"}},
}


def test_settings_of_a_later_release_are_left_out_and_logged(caplog: pytest.LogCaptureFixture):
    later = TABLE | {"experts": {"law": {"app": "law", "tier": 2}}, "keys": [], "regions": ["eu"]}
    with caplog.at_level(logging.WARNING):
        assert read_settings(RouteTable, later) == RouteTable.model_validate(TABLE)
    assert caplog.messages == [
        "another release wrote settings that this one works without: experts.law.tier, regions"
    ]


def test_known_settings_are_checked_all_the_same():
    for wrong in (TABLE | {"table_version": "x"}, TABLE | {"table_version": "x", "regions": []}):
        with pytest.raises(ValidationError, match="table_version"):
            read_settings(RouteTable, wrong)

"""Route tables are immutable, and their cached properties belong to one table."""

from __future__ import annotations

import pytest

from router.api_key import ApiKey
from router.table import ModelEntry, RouteTable
from tests.fakes.models import expert_table

ALICE = ApiKey(name="alice", sha256="a" * 64)


@pytest.mark.parametrize("deep", [False, True])
def test_a_changed_copy_computes_its_cached_properties_anew(deep: bool):
    table = expert_table()
    assert table.expert_apps == {"chem", "law", "weather"}
    assert table.keys_by_digest == {}
    law = {"law": ModelEntry(app="law")}
    copied = table.model_copy(update={"experts": law, "keys": (ALICE,)}, deep=deep)
    assert copied.expert_apps == {"law"}
    assert copied.keys_by_digest == {"a" * 64: ALICE}
    assert table.expert_apps == {"chem", "law", "weather"}
    assert table.keys_by_digest == {}


def test_only_windows_that_may_be_too_small_are_sent_along():
    experts = {
        "small": ModelEntry(app="small", window=512),
        "large": ModelEntry(app="large", window=4096),
        "unknown": ModelEntry(app="unknown"),
    }
    fields = {"table_version": 1, "name": "g", "experts": experts}
    assert RouteTable(meta=ModelEntry(app="m", window=2048), **fields).narrow_windows == {"small": 512}
    assert RouteTable(meta=ModelEntry(app="m"), **fields).narrow_windows == {"small": 512, "large": 4096}


def test_listing_the_models_compares_each_alias_with_few_names(monkeypatch: pytest.MonkeyPatch):
    """Each was compared with every name."""
    num_compared = 0

    class Name(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal num_compared
            num_compared += 1
            return str.__eq__(self, other)

    names = [f"g/expert-{number}" for number in range(100)]
    monkeypatch.setattr("router.table.model_ids", lambda *_: [Name(name) for name in names])
    aliases = {f"alias-{number}": name for number, name in enumerate(names)}
    table = RouteTable(table_version=1, name="g", meta=ModelEntry(app="meta"), aliases=aliases)
    assert table.model_ids == [*names, *aliases]
    assert num_compared < 5 * len(names)

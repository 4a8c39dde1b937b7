"""`cache_salt`: whose requests may find in a prefix cache what others have sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from router.api.keys import digest_of
from router.api_key import ApiKey
from router.dialects.app import build_app
from router.model_port import Finish, ModelChunk, ModelRequest
from tests.fakes.models import FakeGateway, FakeModel, writes

HELLO = [{"role": "user", "content": "Hello"}]
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/completions": {"prompt": "Hello"},
    "/v1/responses": {"input": "Hello"},
    "/v1/messages": {"messages": HELLO, "max_tokens": 5},
    "/v1/messages/count_tokens": {"messages": HELLO},
    "/v1/route": {"messages": HELLO},
}
KEYS = {name: f"key-of-{name}-0123456789" for name in ("alice", "bob")}


def meta(ask: ModelRequest) -> Sequence[ModelChunk]:
    if ask.probe:
        return [ModelChunk(num_prompt_tokens=3, finish=Finish.STOP, distribution={"roman": 0.5})]
    if ask.allowed:
        return [ModelChunk(num_prompt_tokens=3, finish=Finish.EXPERT, expert="roman")]
    return [ModelChunk("7", num_tokens=1, num_prompt_tokens=3), ModelChunk(finish=Finish.STOP)]


def gateway(**changes: Any) -> FakeGateway:
    gateway = FakeGateway({"meta": FakeModel(meta), "roman": FakeModel(writes("VII"))})
    keys = tuple(ApiKey(name=name, sha256=digest_of(key)) for name, key in KEYS.items())
    gateway.table = gateway.table.model_copy(update={"keys": keys, **changes})
    return gateway


async def salts(to: FakeGateway, path: str, key: str = "alice", **fields: Any) -> set[str | None]:
    """Those of all calls of one request."""
    models = [model for model in (to.models["meta"], to.models["roman"]) if isinstance(model, FakeModel)]
    num_before = [len(model.asks) for model in models]
    headers = {"authorization": f"Bearer {KEYS[key]}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(to)), base_url="http://r") as http:
        response = await http.post(path, json={**REQUESTS[path], **fields}, headers=headers)
    assert response.status_code == 200, response.text
    found = zip(models, num_before, strict=True)
    return {ask.cache_salt for model, num in found for ask in model.asks[num:]}


@pytest.mark.parametrize("path", REQUESTS)
async def test_with_separate_caches_each_key_has_its_own(path: str):
    to = gateway(separate_caches=True)
    (alice,), (bob,) = await salts(to, path), await salts(to, path, "bob")
    assert None not in (alice, bob)
    assert alice != bob
    assert await salts(to, path) == {alice}
    assert "alice" not in str(alice)


@pytest.mark.parametrize("path", REQUESTS)
async def test_a_salt_of_a_client_reaches_no_other_key(path: str):
    to = gateway(separate_caches=True)
    (plain,), (alice,) = await salts(to, path), await salts(to, path, cache_salt="s")
    (bob,), (guessed,) = (
        await salts(to, path, "bob", cache_salt="s"),
        await salts(to, path, "bob", cache_salt=alice),
    )
    assert len({plain, alice, bob, guessed}) == 4


@pytest.mark.parametrize("path", REQUESTS)
async def test_without_the_setting_only_the_client_decides(path: str):
    to = gateway()
    assert await salts(to, path) == await salts(to, path, "bob") == {None}
    assert await salts(to, path, cache_salt="s") == await salts(to, path, "bob", cache_salt="s") != {None}


@pytest.mark.parametrize("salt", ["", "s" * 257, 5], ids=["empty", "long", "number"])
async def test_a_salt_that_is_not_a_short_text_is_refused(salt: Any):
    with pytest.raises(AssertionError, match="cache_salt"):
        await salts(gateway(), "/v1/chat/completions", cache_salt=salt)

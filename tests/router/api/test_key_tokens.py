"""Every token that a model reads for a key counts, whether it is asked for an answer or not."""

from __future__ import annotations

import httpx
import pytest

from router.api.keys import digest_of
from router.api_key import ApiKey
from router.dialects.app import build_app
from router.model_port import Finish, ModelChunk
from tests.fakes.models import FakeGateway, FakeModel, models, writes

KEY = "key-of-alice-0123456789"
MESSAGES = [{"role": "user", "content": "q"}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/route", {"messages": MESSAGES}),
        ("/v1/messages/count_tokens", {"messages": MESSAGES, "model": "generalist"}),
        ("/v1/responses/input_tokens", {"input": "q"}),
    ],
)
async def test_a_key_without_tokens_left_is_refused(path: str, body: dict[str, object]):
    """The meta reads 8,000 tokens for each of these requests, and the key has 100 a day."""
    read = ModelChunk(num_prompt_tokens=8000, finish=Finish.STOP, distribution={})
    gateway = FakeGateway(
        {**models(roman=writes("I"), morse=writes("-")), "meta": FakeModel(lambda _: [read])}
    )
    alice = ApiKey(name="alice", sha256=digest_of(KEY), tokens_per_day=100)
    gateway.table = gateway.table.model_copy(update={"keys": (alice,)})
    transport = httpx.ASGITransport(build_app(gateway))
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://router", headers=headers) as client:
        statuses = [(await client.post(path, json=body)).status_code for _ in range(2)]
    assert statuses == [200, 429]

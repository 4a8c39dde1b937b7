"""`GET /cluster`: what a key may see of the models, and of the last hour."""

import httpx
import pytest

from deployments.http.cluster_endpoint import ClusterResponse
from deployments.replicas.app_reports import AppReport
from router.api.keys import digest_of
from router.api_key import ApiKey
from router.load_report import ModelLoad, ReplicaLoad
from tests.fakes.models import FakeGateway, FakeModel
from tests.fakes.page import SCRIPTS, FakeReports, LastHourMeter, app_with_page

LOAD = ModelLoad(2, 1, 40, (ReplicaLoad("r", 1.0, 2, 1, 40, 0.5),))
REPORTS = FakeReports({"roman": AppReport(1, 2, "no node has 1 GPU free")})
HELLO = {"messages": [{"role": "user", "content": "What is 9?"}]}


@pytest.fixture
def gateway() -> FakeGateway:
    models = {name: FakeModel(script) for name, script in SCRIPTS.items()}
    return FakeGateway(models, ready={"roman"}, loads={"roman": LOAD}, meter=LastHourMeter())


def client_of(gateway: FakeGateway) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app_with_page(gateway, REPORTS))
    return httpx.AsyncClient(transport=transport, base_url="http://router")


async def test_every_model_has_its_state_replicas_and_load(gateway: FakeGateway):
    body = (await client_of(gateway).get("/cluster")).json()
    ClusterResponse.model_validate(body)
    assert list(body["models"]) == ["meta", "roman", "morse"]
    roman = body["models"]["roman"]
    assert roman["state"] == "ready"
    assert roman["replicas"] == {"num_ready": 1, "num_wanted": 2, "message": "no node has 1 GPU free"}
    assert (roman["load"]["num_running"], roman["load"]["num_queued"]) == (2, 1)
    assert body["models"]["morse"] == {"state": "asleep", "replicas": None, "load": None, "num_waiting": 0}


async def test_answers_count_in_the_last_hour(gateway: FakeGateway):
    client = client_of(gateway)
    for _ in range(2):
        assert (await client.post("/v1/chat/completions", json=HELLO)).status_code == 200
    hour = (await client.get("/cluster")).json()["last_hour"]
    assert (hour["num_answers"], hour["handovers"]) == (2, {"roman": 2, "morse": 0})
    assert hour["phases_s"].keys() >= {"queue", "prefill", "decode"}


async def test_a_key_sees_only_its_experts(gateway: FakeGateway):
    key = ApiKey(name="bob", sha256=digest_of("a-key-of-bob-0123456789"), experts=("morse",))
    gateway.table = gateway.table.model_copy(update={"keys": (key,)})
    headers = {"authorization": "Bearer a-key-of-bob-0123456789"}
    body = (await client_of(gateway).get("/cluster", headers=headers)).json()
    assert list(body["models"]) == ["meta", "morse"]
    assert list(body["last_hour"]["handovers"]) == ["morse"]


async def test_the_endpoint_is_in_the_openapi_document(gateway: FakeGateway):
    document = (await client_of(gateway).get("/openapi.json")).json()
    assert "/cluster" in document["paths"]
    assert "ClusterResponse" in document["components"]["schemas"]

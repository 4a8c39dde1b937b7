"""The page's files: who gets them, with which headers, and what of the browser they may use."""

import re

import httpx
import pytest

from deployments.http.page import CONTENT_SECURITY_POLICY, FOLDER, page_files
from router.api.keys import digest_of
from router.api_key import ApiKey
from router.errors import ModelUnavailable
from router.table import RouteTable
from tests.fakes.models import FakeGateway
from tests.fakes.page import app_with_page

OWN_SCRIPTS = sorted(path for path in FOLDER.rglob("*.js") if path.parent.name != "vendor")
MAX_LINES = 250


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway({})


@pytest.fixture
def client(gateway: FakeGateway) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app_with_page(gateway))
    return httpx.AsyncClient(transport=transport, base_url="http://router")


async def test_a_browser_gets_every_file_with_its_type_and_the_policy(client: httpx.AsyncClient):
    for path, file in page_files(FOLDER).items():
        response = await client.get(path)
        assert (response.status_code, response.content) == (200, file.content)
        assert response.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert response.headers["x-content-type-options"] == "nosniff"
    assert (await client.get("/")).headers["content-type"] == "text/html; charset=utf-8"
    assert "javascript" in (await client.get("/page/main.js")).headers["content-type"]
    assert (await client.get("/page/icon.svg")).headers["content-type"] == "image/svg+xml"


def test_the_policy_allows_this_origin_only():
    assert set(re.findall(r"'[^']+'|data:", CONTENT_SECURITY_POLICY)) == {"'none'", "'self'", "data:"}
    assert CONTENT_SECURITY_POLICY.startswith("default-src 'none';")


async def test_the_page_needs_no_api_key_and_its_calls_do(client: httpx.AsyncClient, gateway: FakeGateway):
    key = ApiKey(name="alice", sha256=digest_of("a-key-of-alice-0123456789"))
    gateway.table = gateway.table.model_copy(update={"keys": (key,)})
    assert (await client.get("/")).status_code == 200
    assert (await client.get("/page/main.js")).status_code == 200
    for path in ("/cluster", "/v1/models", "/page/", "/page/nowhere.js", "/index.html"):
        assert (await client.get(path)).status_code == 401


async def test_a_browser_that_has_a_file_is_told_so(client: httpx.AsyncClient):
    first = await client.get("/")
    assert first.headers["cache-control"] == "no-cache"
    again = await client.get("/", headers={"if-none-match": f'W/"other", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert (await client.get("/", headers={"if-none-match": '"other"'})).status_code == 200


async def test_head_has_the_headers_of_get(client: httpx.AsyncClient):
    get, head = await client.get("/"), await client.head("/")
    assert (head.status_code, head.content) == (200, b"")
    assert dict(head.headers) == dict(get.headers)


async def test_without_the_page_its_paths_are_unknown(client: httpx.AsyncClient, gateway: FakeGateway):
    gateway.table = gateway.table.model_copy(update={"page": False})
    for path in ("/", "/page/main.js"):
        assert (await client.get(path)).status_code == 404
    assert (await client.get("/cluster")).status_code == 200


async def test_other_methods_and_paths_go_to_the_api(client: httpx.AsyncClient):
    assert (await client.post("/")).status_code == 404
    assert (await client.get("/page/../../router.py")).status_code == 404
    assert (await client.get("/page/%2e%2e/page.py")).status_code == 404
    assert (await client.get("/healthz")).json()["status"] == "ok"


async def test_a_router_without_a_route_table_answers_503():
    class Empty(FakeGateway):
        @property
        def table(self) -> RouteTable:
            raise ModelUnavailable("this router has no route table yet")

        @table.setter
        def table(self, table: RouteTable) -> None: ...

    transport = httpx.ASGITransport(app_with_page(Empty({})))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        assert (await client.get("/")).status_code == 503


def test_no_file_names_another_host_or_parses_html():
    for path in [*OWN_SCRIPTS, *FOLDER.glob("*.css"), FOLDER / "index.html"]:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://\w|@import|(?<!\w)url\(", text), path.name
        assert not re.search(r"(inner|outer|Adjacent)HTML|document\.write|eval\(", text), path.name


def test_every_script_is_short_says_what_it_is_and_documents_its_exports():
    for path in OWN_SCRIPTS:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= MAX_LINES, path.name
        assert "@file" in "".join(lines[:3]), path.name
        exports = [index for index, line in enumerate(lines) if line.startswith("export ")]
        undocumented = [lines[index] for index in exports if not lines[index - 1].rstrip().endswith("*/")]
        documented_alone = [line for line in undocumented if not line.startswith("export const META")]
        assert documented_alone == [], path.name

"""The page of a real cluster: its files come through the proxy, and Serve's controller is asked."""

from __future__ import annotations

import httpx
import pytest

from deployments.http.cluster_endpoint import ClusterResponse
from deployments.http.page import FOLDER, page_files
from tests.conftest import Served

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def test_a_browser_gets_the_page_from_a_cluster(served: Served):
    for path, file in page_files(FOLDER).items():
        response = httpx.get(f"{served.url}{path}", trust_env=False)
        assert (response.status_code, response.content) == (200, file.content)
        assert response.headers["etag"] == file.etag


def test_the_page_is_told_how_many_replicas_every_model_has(served: Served):
    body = httpx.get(f"{served.url}/cluster", trust_env=False, timeout=30).json()
    models = ClusterResponse.model_validate(body).models
    assert models.keys() == {"meta", *served.config.experts}
    for model in models.values():
        assert model.replicas is not None
        assert (model.replicas.num_ready, model.replicas.num_wanted) == (1, 1)
        assert (model.state, model.replicas.message) == ("ready", "")

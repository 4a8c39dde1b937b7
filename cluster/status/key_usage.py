"""What API keys have used, as a router of the running cluster tells it."""

from __future__ import annotations

import httpx
from pydantic import BaseModel, ValidationError

from cluster.errors import AskError
from cluster.own_api_key import KEY_VARIABLE, authorization

PATH = "/keys/usage"
TIMEOUT_S = 5.0


class KeyUsage(BaseModel):
    """Counts since midnight UTC, the answers that are open now, and the limits. `sha256`: its beginning."""

    name: str
    sha256: str
    requests_today: int
    tokens_today: int
    num_open: int
    requests_per_minute: int | None
    tokens_per_minute: int | None
    tokens_per_day: int | None
    max_concurrent: int | None


class _UsageList(BaseModel):
    data: list[KeyUsage]


def fetch_key_usage(url: str) -> list[KeyUsage]:
    """Every key if that in `ETR_API_KEY` sees the usage of all keys; otherwise that key alone.

    Raises:
        AskError: no router answers at `url`, or it refuses the key.
    """
    try:
        with httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False) as client:
            response = client.get(PATH, headers=authorization())
        return _UsageList.model_validate_json(response.raise_for_status().content).data
    except httpx.HTTPStatusError as error:
        is_refused = error.response.status_code == httpx.codes.UNAUTHORIZED
        remedy = f": set {KEY_VARIABLE} to a valid API key" if is_refused else ""
        raise AskError(f"the router at {url} answers {error.response.status_code}{remedy}") from error
    except (httpx.RequestError, httpx.InvalidURL, ValidationError) as error:
        raise AskError(f"no router answers at {url} ({str(error) or type(error).__name__})") from error

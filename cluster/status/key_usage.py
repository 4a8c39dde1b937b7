"""What API keys have used, as a router of the running cluster tells it."""

from __future__ import annotations

import httpx
from pydantic import ValidationError

from cluster.errors import AskError
from cluster.own_api_key import KEY_VARIABLE, authorization
from router.api.response_models import KeyUsage, KeyUsageList

PATH = "/keys/usage"
TIMEOUT_S = 5.0


def fetch_key_usage(url: str) -> list[KeyUsage]:
    """Every key if that in `ETR_API_KEY` sees the usage of all keys; otherwise that key alone.

    Raises:
        AskError: no router answers at `url`, or it refuses the key.
    """
    try:
        with httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False) as client:
            response = client.get(PATH, headers=authorization())
        return KeyUsageList.model_validate_json(response.raise_for_status().content).data
    except httpx.HTTPStatusError as error:
        is_refused = error.response.status_code == httpx.codes.UNAUTHORIZED
        remedy = f": set {KEY_VARIABLE} to a valid API key" if is_refused else ""
        raise AskError(f"the router at {url} answers {error.response.status_code}{remedy}") from error
    except (httpx.RequestError, httpx.InvalidURL, ValidationError) as error:
        raise AskError(f"no router answers at {url} ({str(error) or type(error).__name__})") from error

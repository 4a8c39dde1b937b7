"""Serve's REST API on Ray's dashboard: read what runs, put what should run."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import httpx

from cluster.errors import ServeRefused, ServeUnreachable

APPLICATIONS = "/api/serve/applications/"
TIMEOUT_S = 60.0  # the first PUT starts Serve itself


class ServeClient:
    """`address` is the dashboard's, as http://host:port; `token` its bearer token where it wants one."""

    def __init__(self, address: str, token: str | None = None) -> None:
        self.address = address.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(headers=headers, timeout=TIMEOUT_S, trust_env=False)

    def details(self) -> dict[str, Any]:
        """Everything Serve says of itself: `applications`, `http_options`, …

        Raises:
            ServeUnreachable, ServeRefused.
        """
        found: dict[str, Any] = self._send("GET").json()
        return found

    def get(self, path: str) -> Any:
        """What another part of Ray's dashboard says, as JSON; `path` begins with a slash.

        Raises:
            ServeUnreachable, ServeRefused.
        """
        return self._send("GET", path=path).json()

    def put(self, deploy: dict[str, Any]) -> None:
        """Make `deploy` the whole of what Serve runs. Returns when it is accepted, not when it runs.

        Raises:
            ServeUnreachable, ServeRefused.
        """
        self._send("PUT", deploy)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(
        self, method: str, body: dict[str, Any] | None = None, path: str = APPLICATIONS
    ) -> httpx.Response:
        try:
            response = self._http.request(method, self.address + path, json=body)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ServeUnreachable(
                f"no Ray dashboard answers at {self.address} ({error}); run `etr up` or correct --address"
            ) from error
        if response.status_code in (401, 403):
            raise ServeRefused(f"{self.address} wants a token; set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH")
        if response.status_code >= 500:
            raise ServeUnreachable(f"{self.address} answers {_reason(response)}; is its Ray head healthy?")
        if not response.is_success:
            raise ServeRefused(
                f"{self.address} refused to {method} {path}: {_reason(response)}; is it Ray Serve?"
            )
        return response


def _reason(response: httpx.Response) -> str:
    lines = response.text.strip().splitlines()
    return f"{response.status_code}: {lines[-1][:300]}" if lines else str(response.status_code)

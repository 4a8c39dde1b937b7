"""Serve's REST API on Ray's dashboard: read what runs, put what should run."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from cluster.errors import ServeRefused, ServeUnreachable
from cluster.serve.serve_details import ServeDetails

APPLICATIONS = "/api/serve/applications/"
TIMEOUT_S = 60.0  # the first PUT starts Serve itself

Answer = TypeVar("Answer", bound=BaseModel)


class ServeClient:
    """`address` is the dashboard's, as http://host:port; `token` its bearer token, if it requires one."""

    def __init__(self, address: str, token: str | None = None) -> None:
        self.address = address.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(headers=headers, timeout=TIMEOUT_S, trust_env=False)

    def details(self) -> ServeDetails:
        """What Serve runs now.

        Raises:
            ServeUnreachable, ServeRefused.
        """
        return self.get(APPLICATIONS, ServeDetails)

    def get(self, path: str, kind: type[Answer]) -> Answer:
        """The dashboard's answer at `path`, which begins with a slash.

        Raises:
            ServeUnreachable: no Ray dashboard answers.
            ServeRefused: it refuses, or its answer is not a `kind`: another server is at this address.
        """
        response = self._send("GET", path)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise ServeRefused(
                f"{self.address} answers GET {path}, but not as Ray's dashboard would "
                f"({_first_problem(error)}); correct --address"
            ) from error

    def put(self, deploy: dict[str, Any]) -> None:
        """Make Serve run `deploy` and nothing else. Returns once Serve accepts it, before it runs.

        Raises:
            ServeUnreachable, ServeRefused.
        """
        self._send("PUT", APPLICATIONS, deploy)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            response = self._http.request(method, self.address + path, json=body)
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise ServeUnreachable(
                f"no Ray dashboard answers at {self.address} ({error}); run `etr up` or correct --address"
            ) from error
        if response.status_code in (401, 403):
            raise ServeRefused(f"{self.address} requires a token; set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH")
        if response.status_code >= 500:
            raise ServeUnreachable(f"{self.address} answers {_reason(response)}; check its Ray head")
        if not response.is_success:
            raise ServeRefused(
                f"{self.address} refused to {method} {path}: {_reason(response)}; check that Ray Serve "
                "answers there, or correct --address"
            )
        return response


def _reason(response: httpx.Response) -> str:
    lines = response.text.strip().splitlines()
    return f"{response.status_code}: {lines[-1][:300]}" if lines else str(response.status_code)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, problem["loc"]))
    return f"{where}: {problem['msg']}" if where else problem["msg"]

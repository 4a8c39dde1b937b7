"""Sends fuzz requests to a served cluster and checks that every answer has the documented format."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

from benchmarks.chaos.fuzzing.requests import FuzzRequest, fuzz_requests
from router.dialects.app import dialect_of
from router.dialects.messages.errors import MESSAGES

STREAM_ENDS = {  # how the last event of a stream begins; by default that is OpenAI's [DONE]
    "/v1/responses": tuple(f"event: response.{end}" for end in ("completed", "incomplete", "failed")),
    "/v1/messages": ("event: message_stop", "event: error"),
}

NUM_CLIENTS = 8
TIMEOUT_S = 120.0
MAX_FINDINGS = 20
MAX_SHOWN = 2000  # bytes of a body


@dataclass(frozen=True)
class Finding:
    """A request with a wrong answer, and what is wrong with that answer."""

    problem: str
    request: FuzzRequest

    def __str__(self) -> str:
        request = self.request
        head = f"{self.problem}: {request.method} {request.path[:200]} {dict(request.headers)}"
        return f"{head} {request.body[:MAX_SHOWN]!r} ({len(request.body)} bytes)"


@dataclass(frozen=True)
class FuzzResult:
    """`num_malformed`: errors outside OpenAI's envelope, and streams without their end.

    `generate_s`: how long it took to generate the requests. `send_s`: to send them and read the answers.
    """

    num_requests: int
    by_status: dict[int, int]
    by_kind: dict[str, int]
    num_5xx: int
    num_connection_errors: int
    num_malformed: int
    send_s: float
    generate_s: float
    findings: tuple[str, ...]

    def broken(self) -> list[str]:
        """Count answers that must not occur. 503 and 504 are allowed: they report an overloaded cluster."""
        num_500 = self.num_5xx - self.by_status.get(503, 0) - self.by_status.get(504, 0)
        counts = {
            "answered 500": num_500,
            "lost their connection": self.num_connection_errors,
            "answered in a wrong format": self.num_malformed,
        }
        return [f"{num} fuzz requests {outcome}" for outcome, num in counts.items() if num]


def send_fuzz_requests(url: str, num_requests: int, seed: int, api_key: str | None = None) -> FuzzResult:
    """Send `num_requests` to the router at `url`, `NUM_CLIENTS` at a time, and read every answer to its end.

    Raises:
        httpx.HTTPError: the router does not list its models.
    """
    key = {"authorization": f"Bearer {api_key}"} if api_key else {}
    models = httpx.get(f"{url}/v1/models", headers=key, timeout=TIMEOUT_S).raise_for_status().json()["data"]
    began_s = time.perf_counter()
    requests = list(fuzz_requests([model["id"] for model in models], num_requests, seed))
    generated_s = time.perf_counter()
    tally = asyncio.run(_send_all(url, requests, key))
    return FuzzResult(
        num_requests=num_requests,
        by_status=dict(sorted(tally.by_status.items())),
        by_kind=dict(Counter(request.kind for request in requests)),
        num_5xx=sum(num for status, num in tally.by_status.items() if status >= 500),
        num_connection_errors=tally.num_connection_errors,
        num_malformed=tally.num_malformed,
        send_s=time.perf_counter() - generated_s,
        generate_s=generated_s - began_s,
        findings=tuple(str(finding) for finding in tally.findings[:MAX_FINDINGS]),
    )


@dataclass
class _Tally:
    by_status: Counter[int] = field(default_factory=Counter)
    num_connection_errors: int = 0
    num_malformed: int = 0
    findings: list[Finding] = field(default_factory=list)


async def _send_all(url: str, requests: list[FuzzRequest], key: dict[str, str]) -> _Tally:
    tally, waiting = _Tally(), iter(requests)
    async with (
        httpx.AsyncClient(headers=key, timeout=TIMEOUT_S) as http,
        asyncio.TaskGroup() as clients,
    ):
        for _ in range(NUM_CLIENTS):
            clients.create_task(_send(http, url, waiting, tally))
    return tally


async def _send(http: httpx.AsyncClient, url: str, requests: Iterator[FuzzRequest], tally: _Tally) -> None:
    for request in requests:
        # As bytes, because httpx refuses text that is not ASCII. HTTP/1.1 headers were once latin-1.
        headers = [(name.encode(), value.encode("latin-1")) for name, value in request.headers.items()]
        try:
            # Joined here, because httpx would read a path with two leading slashes as a host.
            address = url.rstrip("/") + request.path
            response = await http.request(request.method, address, headers=headers, content=request.body)
        except httpx.TransportError as error:
            tally.num_connection_errors += 1
            tally.findings.append(Finding(repr(error), request))
            continue
        tally.by_status[response.status_code] += 1
        problem = format_error(request, response)
        tally.num_malformed += problem is not None
        if problem or response.status_code >= 500:
            tally.findings.append(
                Finding(problem or f"{response.status_code} {response.text[:200]}", request)
            )


def format_error(request: FuzzRequest, response: httpx.Response) -> str | None:
    """Describe what is wrong with the format of the answer. None: it is right."""
    if request.method == "HEAD":
        return None
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        ends = STREAM_ENDS.get(request.path, ("data: [DONE]",))
        last = response.text.removesuffix("\n\n").rpartition("\n\n")[2]
        return None if last.startswith(ends) else "a stream without its end"
    try:
        answer = json.loads(response.content)
    except ValueError:
        return f"{response.status_code}, not JSON: {response.text[:200]}"
    if response.is_success:
        return None if isinstance(answer, dict) else "an answer that is not a JSON object"
    error = answer.get("error") if isinstance(answer, dict) else None
    fields = (
        {"message", "type"} if dialect_of(request.path) is MESSAGES else {"message", "type", "param", "code"}
    )
    if not isinstance(error, dict) or set(error) != fields:
        return f"{response.status_code} outside the envelope: {response.text[:200]}"
    missing = response.status_code in (429, 503) and "retry-after" not in response.headers
    return f"{response.status_code} without retry-after" if missing else None

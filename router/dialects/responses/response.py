"""The `response` object: what was asked for, and what has been answered so far."""

from __future__ import annotations

import time
from typing import Any

from router.api.answers import usage_by_model
from router.api.cache_salt import tells_cache
from router.api.trace import trace
from router.decoding.generation import Done
from router.dialects.responses.errors import code_of, param_of
from router.dialects.responses.output import COMPLETED, FAILED, IN_PROGRESS, INCOMPLETE, Event
from router.dialects.responses.request import ResponsesRequest
from router.errors import RouterError
from router.model_port import Finish
from router.table import RouteTable


class ResponseObject:
    """`fields` are the object as clients get it at this moment."""

    def __init__(self, request: ResponsesRequest, answer_id: str, model: str, table: RouteTable) -> None:
        self._tells_cache = tells_cache(table)
        self._has_trace = request.routing is not None and request.routing.trace
        self.fields: dict[str, Any] = {
            "id": answer_id,
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "system_fingerprint": f"table-{table.table_version}",
            **_IN_PROGRESS,
            **_repeated(request),
        }

    def end(self, done: Done, output: list[dict[str, Any]]) -> None:
        is_whole = done.finish is not Finish.LENGTH
        self.fields |= {
            "status": status_of(done),
            "completed_at": int(time.time()) if is_whole else None,
            "incomplete_details": None if is_whole else {"reason": "max_output_tokens"},
            "output": output,
            "usage": _usage(done, done.num_cached_tokens if self._tells_cache else 0),
            "usage_by_model": usage_by_model([done.usage_by_model]),
        }
        if self._has_trace:
            self.fields["routing"] = trace(done)

    def fail(self, error: RouterError, output: list[dict[str, Any]]) -> None:
        """The answer ends with an error, after what it has in `output`."""
        described = {"code": code_of(error), "message": error.message, "param": param_of(error)}
        self.fields |= {"status": FAILED, "error": {**described, "type": error.type}, "output": output}

    def event(self, kind: str = "") -> Event:
        """An event of this kind, by default of the kind that the status has. It keeps the present fields."""
        return {"type": f"response.{kind or self.fields['status']}", "response": dict(self.fields)}


def status_of(done: Done) -> str:
    return INCOMPLETE if done.finish is Finish.LENGTH else COMPLETED


# What no request changes, and what a response lacks until it ends.
_IN_PROGRESS: dict[str, Any] = {
    "status": IN_PROGRESS,
    "completed_at": None,
    "error": None,
    "incomplete_details": None,
    "output": [],
    "usage": None,
    "background": False,
    "conversation": None,
    "max_tool_calls": None,
    "previous_response_id": None,
    "service_tier": "default",
    "store": False,
}


def _repeated(request: ResponsesRequest) -> dict[str, Any]:
    """The fields of the request that the response repeats."""
    reasoning = request.reasoning
    return {
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "metadata": request.metadata,
        "parallel_tool_calls": request.parallel_tool_calls,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": reasoning.effort, "summary": reasoning.summary},
        "safety_identifier": request.safety_identifier,
        "temperature": request.temperature,
        "text": {"format": request.text.format.given(), "verbosity": request.text.verbosity},
        "tool_choice": request.tool_choice.given,
        "tools": [tool.model_dump() for tool in request.tools],
        "top_logprobs": request.top_logprobs,
        "top_p": request.top_p,
        "truncation": request.truncation,
        "user": request.user,
    }


def _usage(done: Done, num_cached_tokens: int) -> dict[str, Any]:
    num_thought = sum(usage.num_hidden_tokens for usage in done.usage_by_model.values())
    return {
        "input_tokens": done.num_prompt_tokens,
        "input_tokens_details": {"cached_tokens": num_cached_tokens, "cache_write_tokens": 0},
        "output_tokens": done.num_completion_tokens,
        "output_tokens_details": {"reasoning_tokens": num_thought},
        "total_tokens": done.num_prompt_tokens + done.num_completion_tokens,
    }

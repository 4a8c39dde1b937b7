"""The `Tracer` of one replica, whose settings may change while it serves."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deployments.tracing.identity import app_name, replica_name
from router.table import Tracing
from router.tracing import TraceSpan

if TYPE_CHECKING:  # needs the extra `otel`
    from deployments.tracing.otlp import OtlpSender

CLOSE_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


class OtlpTracer:
    """A `Tracer` whose settings change while it records. Without settings it records nothing."""

    def __init__(self) -> None:
        self.settings: Tracing | None = None
        self._wanted: Tracing | None = None
        self._sender: OtlpSender | None = None

    async def configure(self, wanted: Tracing | None) -> None:
        """Settings that cannot take effect here are logged: a replica serves without traces too."""
        if wanted == self._wanted:
            return
        self._wanted = wanted
        await self.close()
        if wanted is None:
            return
        try:
            self._sender = await asyncio.to_thread(_make_sender, wanted)
        except ImportError:
            logger.error("nothing is traced: install expert-token-routing[otel] on this node")
        except KeyError:
            logger.error(
                "nothing is traced: tracing.headers_env %s is not set on this node", wanted.headers_env
            )
        else:
            self.settings = wanted

    def record(self, spans: Sequence[TraceSpan]) -> None:
        if self._sender is not None:
            for span in spans:
                self._sender.send(span)

    async def close(self) -> None:
        """Send what is left; what takes longer than `CLOSE_TIMEOUT_S` is lost."""
        sender, self._sender, self.settings = self._sender, None, None
        if sender is not None:
            await asyncio.wait(
                [asyncio.create_task(asyncio.to_thread(sender.close))], timeout=CLOSE_TIMEOUT_S
            )


def _make_sender(settings: Tracing) -> OtlpSender:
    """Raises ImportError without the extra `otel`, and KeyError without the variable `headers_env`."""
    from opentelemetry.util.re import parse_env_headers

    from deployments.tracing.otlp import OtlpSender

    text = os.environ[settings.headers_env] if settings.headers_env else ""
    resource = {
        "service.name": settings.service,
        "service.instance.id": replica_name(),
        "etr.app": app_name(),
    }
    return OtlpSender(settings.endpoint, parse_env_headers(text, liberal=True), resource)

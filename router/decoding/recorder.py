"""What the decode loop tells of an answer that has ended."""

from __future__ import annotations

from typing import Protocol

from router.decoding.generation import GenerationRequest, GenerationState
from router.table import RouteTable


class AnswerRecorder(Protocol):
    """Keeps what is to be known of answers."""

    def ended(self, generation: GenerationRequest, state: GenerationState, table: RouteTable) -> None:
        """An answer has ended: complete, failed, or left by its client. `table` holds what it could reach."""
        ...

    def performed(self, state: GenerationState) -> None:
        """A task that is no answer has ended."""
        ...


class NoRecorder:
    def ended(self, generation: GenerationRequest, state: GenerationState, table: RouteTable) -> None:
        pass

    def performed(self, state: GenerationState) -> None:
        pass

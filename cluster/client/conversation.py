"""A conversation with a running cluster: what was said, and how the next question is routed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from cluster.client.chat import AnswerPart, AnswerTrace, ask


@dataclass
class Conversation:
    """Questions and answers with one cluster, which gets all of them with each new question.

    Attributes:
        model: who is asked; None for the cluster itself.
        system: the system message, if not empty.
        forced: the expert that writes each answer; None if the meta decides.
        excluded: the experts that the meta cannot choose. No expert is excluded while one is forced.
        turns: the messages so far, without the system message.
    """

    url: str
    model: str | None = None
    system: str = ""
    forced: str | None = None
    excluded: tuple[str, ...] = ()
    turns: list[dict[str, str]] = field(default_factory=list)

    def ask(self, question: str) -> Generator[AnswerPart | AnswerTrace]:
        """Stream the answer, with its trace.

        The part that has arrived is kept, also if the answer breaks off or the caller closes the stream. A
        question without any answer is forgotten.

        Raises:
            AskError: as `ask` raises it.
        """
        asked = {"role": "user", "content": question}
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, *self.turns, asked]
        text = ""
        with closing(ask(self.url, messages, model=self.model, routing=self._routing())) as parts:
            try:
                for part in parts:
                    if isinstance(part, AnswerPart) and not part.is_thought:
                        text += part.text
                    yield part
            finally:
                if text:
                    self.turns += [asked, {"role": "assistant", "content": text}]

    def _routing(self) -> dict[str, Any]:
        if self.forced is not None:
            return {"trace": True, "force": self.forced}
        return {"trace": True} | ({"exclude": [*self.excluded]} if self.excluded else {})

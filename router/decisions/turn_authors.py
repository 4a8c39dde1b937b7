"""Who wrote the turns of conversations, so that the next question may stay with the same expert.

Every router remembers the turns that it has answered, and learns those of the other routers from time to
time. A question waits for neither.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from hashlib import blake2b

from router.decoding.generation import GenerationRequest
from router.decoding.transcript import author_of_call
from router.prompt import Message

MAX_TURNS = 20_000


class TurnAuthors:
    """Remembers the authors of the last `max_turns` turns and sessions, by digests: it holds no text.

    The digest of a turn is over the API key's name, the turn and the message before it.
    """

    def __init__(self, max_turns: int = MAX_TURNS) -> None:
        self._max_turns = max_turns
        self._authors: OrderedDict[str, str] = OrderedDict()
        self._new: dict[str, str] = {}

    def wrote(self, generation: GenerationRequest, key: str, author: str, text: str) -> None:
        """`author` has answered the conversation with `text`. `key` is the name of the API key."""
        messages = generation.prompt.messages
        if messages is None:
            return
        written = Message("assistant", generation.prompt.written + text)
        turns = dict.fromkeys(_digests(key, generation.session, (*messages, written)), author)
        self.learn(turns)
        self._new |= turns
        while len(self._new) > self._max_turns:
            del self._new[next(iter(self._new))]

    def find(self, generation: GenerationRequest, key: str) -> str | None:
        """The model that wrote the last turn of the assistant; None if there is none, or it is not known.

        What the client says of the turn comes first, then its session, then the text of the turn.
        """
        messages = generation.prompt.messages or ()
        last = next((i for i in reversed(range(len(messages))) if messages[i].role == "assistant"), None)
        turn = messages[: last + 1] if last is not None else ()
        if turn and (author := _named_by(turn[-1])) is not None:
            return author
        digests = _digests(key, generation.session, turn)
        return next((self._authors[digest] for digest in digests if digest in self._authors), None)

    def learn(self, turns: Mapping[str, str]) -> None:
        """Authors by digest, of this router or of another one."""
        for digest, author in turns.items():
            self._authors[digest] = author
            self._authors.move_to_end(digest)
        while len(self._authors) > self._max_turns:
            self._authors.popitem(last=False)

    def take_new(self) -> dict[str, str]:
        """The turns that this router has answered since the last call, for the other routers."""
        new, self._new = self._new, {}
        return new

    def __len__(self) -> int:
        return len(self._authors)


def _named_by(turn: Message) -> str | None:
    if turn.author is not None:
        return turn.author
    return next((author for call in turn.tool_calls if (author := author_of_call(call.id))), None)


def _digests(key: str, session: str, messages: tuple[Message, ...]) -> Iterator[str]:
    """Of the session, and of the turn at the end of `messages`."""
    if session:
        yield _digest("session", key, session)
    if len(messages) > 1 and (text := messages[-1].content.strip()):  # some clients strip the text
        yield _digest("turn", key, messages[-2].content, text)


def _digest(*parts: str) -> str:
    text = json.dumps(parts, ensure_ascii=False)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

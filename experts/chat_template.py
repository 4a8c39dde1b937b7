"""A model's chat template: whole conversations, and open assistant turns that have text already."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from os.path import commonprefix
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from experts.errors import InvalidPrompt, TemplateError

Message = dict[str, Any]
Variables = Mapping[str, Any]
_TURNS = (("user", "first question"), ("assistant", "first answer"), ("user", "second question"))
_TEXT_SO_FAR = "an answer so far "
_END = "\U0010fffd"  # a character of a Unicode plane that has no assigned characters
_NONE: Variables = {}
# Not variables of a template: they say how the library renders.
RESERVED = frozenset(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters) | {"messages"}


class ChatTemplate:
    """The chat template of one tokenizer. A message has a `role` and a `content`: a text, or a list of parts
    for a template that has places for pictures.

    `variables` are what the template gets besides the messages: `tools`, `documents`, and whatever else it
    knows. A `chat_template` among them replaces the tokenizer's own.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def opened(self, messages: Sequence[Message], variables: Variables = _NONE) -> str:
        """The conversation with an open assistant turn that has no text yet: the generation prompt.

        Raises InvalidPrompt, or TemplateError if the model has no chat template.
        """
        return self._render(messages, variables, add_generation_prompt=True)

    def closed(self, messages: Sequence[Message], variables: Variables = _NONE) -> str:
        """The conversation up to the end of its last message. Raises as `opened`."""
        return self._render(messages, variables, add_generation_prompt=False)

    def continued(
        self, messages: Sequence[Message], written: str, end: str, variables: Variables = _NONE
    ) -> str:
        """The conversation with `written` in the open assistant turn.

        That is what the template renders for an assistant message with this content, up to the end of the
        content. It may differ from the generation prompt with `written` after it: that one may open a think
        block, or leave a channel header to the model. `end` is a character that occurs in no message.
        Raises InvalidPrompt.
        """
        whole = self._up_to_end(messages, written, end, variables)
        history = self.closed(messages, variables)
        if whole.startswith(history.removesuffix(self._tokenizer.eos_token or "")):
            return whole
        # Where an answer follows, the template renders the messages themselves in another way: Mistral's
        # leaves out the system message then. The turn began after the other rendering, so it goes on there.
        question = [{"role": "user", "content": "question"}]
        opened = self.opened(question, variables)
        turn = self._up_to_end(question, written, end, variables)
        shared = len(commonprefix([opened, turn]))
        return self.opened(messages, variables).removesuffix(opened[shared:]) + turn[shared:]

    @cached_property
    def accepts_system(self) -> bool:
        """Whether a system message reaches the prompt; some templates refuse it and some drop it."""
        messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "question"}]
        try:
            return "be brief" in self.opened(messages)
        except InvalidPrompt:
            return False

    @cached_property
    def _knows_parts_alone(self) -> bool:
        """Whether it leaves out a content that is a text, as those of some models for pictures do."""
        message = {"role": "user", "content": _TURNS[0][1]}
        try:
            plain, in_parts = (self._apply([m], _NONE, False) for m in (message, _in_parts(message)))
        except InvalidPrompt:
            return False
        return message["content"] in in_parts and message["content"] not in plain

    def self_test(self) -> None:
        """Raises TemplateError unless the template can hold a conversation, leave a turn open, and continue
        a turn that has text."""
        messages = [{"role": role, "content": content} for role, content in _TURNS]
        try:
            opened = self.opened(messages)
        except InvalidPrompt as error:
            raise self._unfit(f"refuses user and assistant messages ({error.reason})") from error
        if missing := [content for _, content in _TURNS if content not in opened]:
            raise self._unfit(f"leaves out or changes message text such as '{missing[0]}'")
        try:
            turn = self.continued(messages, _TEXT_SO_FAR, _END)
        except InvalidPrompt as error:
            raise self._unfit(f"cannot continue a begun answer ({error.reason})") from error
        if not turn.endswith(_TEXT_SO_FAR):
            raise self._unfit(f"cannot continue a begun answer: it changes '{_TEXT_SO_FAR}'")
        if not self._is_open(messages, opened, turn.removesuffix(_TEXT_SO_FAR)):
            raise self._unfit("does not open an assistant turn when add_generation_prompt is set")

    def _is_open(self, messages: Sequence[Message], opened: str, begun: str) -> bool:
        """Whether the assistant goes on after `opened`. `begun` ends before an answer's first character.

        The header of an answer is there; or a part of it is, with which no message of a user could begin.
        """
        if opened.startswith(begun.rstrip()):
            return True
        try:
            other = self.closed([*messages, messages[0]])
        except InvalidPrompt:  # the roles must alternate
            other = self.closed(messages)
        return not other.startswith(opened)

    def _up_to_end(
        self, messages: Sequence[Message], written: str, end: str, variables: Variables = _NONE
    ) -> str:
        answer = {"role": "assistant", "content": written + end}
        rendered = self.closed([*messages, answer], variables)
        # A template may repeat the content; the model goes on after the first.
        turn, found, _ = rendered.partition(end)
        if not found:
            raise InvalidPrompt("messages", "this model's chat template drops the text of an open answer")
        return turn

    def knows(self, variable: str, variables: Variables = _NONE) -> bool:
        """Whether the template uses the variable."""
        return variable in str(variables.get("chat_template") or self._tokenizer.chat_template)

    def _render(self, messages: Sequence[Message], variables: Variables, add_generation_prompt: bool) -> str:
        if not self._tokenizer.chat_template and "chat_template" not in variables:
            raise self._unfit("is missing")
        if "chat_template" not in variables and self._knows_parts_alone:
            messages = [*map(_in_parts, messages)]
        return self._apply(messages, variables, add_generation_prompt)

    def _apply(self, messages: Sequence[Message], variables: Variables, add_generation_prompt: bool) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    list(messages), tokenize=False, add_generation_prompt=add_generation_prompt, **variables
                )
            )
        # The latter two: an expression of the template failed in Python.
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise InvalidPrompt(
                "messages", f"this model's chat template refuses them{_repeated_role(messages)}: {error}"
            ) from error

    def _unfit(self, problem: str) -> TemplateError:
        folder = self._tokenizer.name_or_path or "this model"
        return TemplateError(f"{folder}: the chat template {problem}; correct its chat_template.jinja")


def _in_parts(message: Message) -> Message:
    content = message["content"]
    return (
        {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message
    )


def _repeated_role(messages: Sequence[Message]) -> str:
    """Names the usual reason: many templates want user and assistant to alternate."""
    for earlier, later in pairwise(messages):
        if earlier["role"] == later["role"]:
            return f", with two {later['role']} messages in a row"
    return ""

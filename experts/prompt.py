"""Turns conversations into token ids: chat template, open assistant turn, no smuggled control tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from experts.chat_messages import guarded, prepared, texts_in, with_text_before
from experts.chat_template import ChatTemplate, Message
from experts.errors import InvalidPrompt, TemplateError
from experts.text.control_tokens import ControlTokens, Sentinels
from experts.text.guarded_text import GuardedText
from experts.text_encoder import TextEncoder
from experts.tool_text import with_tools_as_text


class PromptRenderer:
    """Renders prompts for one model.

    Message text never becomes a control token: if it spells one, it is encoded in pieces that still decode
    to the same text. All other text is encoded exactly as the tokenizer itself would.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._control = ControlTokens(tokenizer)
        self._encoder = TextEncoder(tokenizer.backend_tokenizer, self._control.ids)
        self._template = ChatTemplate(tokenizer)
        self._variables: Mapping[str, Any] = {}
        self._takes_pictures = False

    def with_variables(self, variables: Mapping[str, Any]) -> PromptRenderer:
        """The same, with these variables of the template wherever a call gives none."""
        renderer = copy(self)
        renderer._variables = variables
        return renderer

    def with_pictures(self) -> PromptRenderer:
        """The same, for a model that sees: a picture in a message is what the template has in its place.

        Raises TemplateError: the template has nothing in its place.
        """
        renderer = copy(self)
        renderer._takes_pictures = True
        text = {"type": "text", "text": "question"}
        plain, seeing = (
            sum(i in self._control.ids for i in renderer.chat([{"role": "user", "content": content}]))
            for content in ([text], [{"type": "image_url"}, text])
        )
        if seeing <= plain:
            raise TemplateError(
                f"{self.tokenizer.name_or_path}: the chat template has no place for pictures; correct its "
                "chat_template.jinja, or set modalities: [text]"
            )
        return renderer

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        written: str = "",
        own: str = "",
        *,
        variables: Mapping[str, Any] | None = None,
        opens_turn: bool = True,
        begun: bool = False,
        max_tokens: int | None = None,
    ) -> list[int]:
        """Ids of `messages` in the chat template, with an open assistant turn at their end if `opens_turn`.

        `written` is the turn's text so far, by any model; the template renders it as an assistant message.
        Without it the turn is the template's generation prompt, or, if the turn has `begun`, goes as far as
        the first character of an answer. `own` is what this model itself wrote after that; it follows as it
        is, and may end in the middle of a thought. The template also gets `variables`, such as `tools`.
        Each message has a `role` (developer counts as system) and a `content`, both str, with pictures a list
        of OpenAI's parts; an assistant message may have OpenAI's `tool_calls` and a `reasoning`, a tool
        message its `tool_call_id`. Without a system role, a system message opens the next user's.
        A prompt that certainly has more than `max_tokens` is refused before it is encoded; it may have more.
        Raises InvalidPrompt, ContextLengthExceeded, or TemplateError if the model has no chat template.
        """
        given = self._variables if variables is None else variables
        conversation, variables = self._conversation(messages, given)
        sentinels = Sentinels([*texts_in(conversation), *texts_in(variables), written, own])
        conversation = [self._guarded_message(message, sentinels) for message in conversation]
        variables = self._guarded_variables(variables, sentinels)
        so_far, after = (self._guard(text, sentinels, "written") for text in (written, own))
        if written or begun:
            prompt = self._template.continued(conversation, so_far, sentinels.end, variables)
        else:
            render = self._template.opened if opens_turn else self._template.closed
            prompt = render(conversation, variables)
        return self._encode(prompt + after, sentinels, add_special_tokens=False, max_tokens=max_tokens)

    def text(
        self,
        prompt: str,
        written: str = "",
        *,
        add_special_tokens: bool = True,
        max_tokens: int | None = None,
    ) -> list[int]:
        """Ids of a raw prompt and the text `written` after it, with the special tokens of the tokenizer
        if `add_special_tokens`.

        Raises InvalidPrompt, ContextLengthExceeded (see `chat`).
        """
        sentinels = Sentinels([prompt, written])
        guarded = self._guard(prompt, sentinels, "prompt") + self._guard(written, sentinels, "written")
        return self._encode(guarded, sentinels, add_special_tokens=add_special_tokens, max_tokens=max_tokens)

    def self_test(self) -> None:
        """Raises TemplateError unless the chat template can hold a conversation, leave a turn open, and
        continue a turn that has text."""
        self._template.self_test()

    def _conversation(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
    ) -> tuple[list[Message], Mapping[str, Any]]:
        """The messages and the variables, as far as the template has a place for them."""
        conversation = [prepared(message) for message in messages]
        if not conversation:
            raise InvalidPrompt("messages", "there must be at least one message")
        if not self._takes_pictures and any(not isinstance(m["content"], str) for m in conversation):
            raise InvalidPrompt("messages", "this model reads text only; ask one that reads pictures")
        if "documents" in variables and not self._template.knows("documents", variables):
            raise InvalidPrompt("documents", "the chat template of this model has no place for them")
        uses_tools = "tools" in variables or any("tool_calls" in message for message in conversation)
        if uses_tools and not self._template.knows("tools", variables):
            conversation = with_tools_as_text(conversation, variables.get("tools", ()))
            variables = {name: value for name, value in variables.items() if name != "tools"}
        has_system = any(message["role"] == "system" for message in conversation)
        if has_system and not self._template.accepts_system:
            conversation = _without_system_role(conversation)
        return conversation, variables

    def _guarded_message(self, message: Message, sentinels: Sentinels) -> Message:
        guard = partial(self._guard, sentinels=sentinels, param="messages")
        texts = ("reasoning", "reasoning_content")
        short = {name: value for name, value in message.items() if name not in (*texts, "role", "content")}
        return {
            "role": message["role"],
            "content": _guarded_content(message["content"], guard),
            **{name: guard(message[name]) for name in texts if name in message},
            **guarded(short, partial(self._split, sentinels)),
        }

    def _guarded_variables(self, variables: Mapping[str, Any], sentinels: Sentinels) -> dict[str, Any]:
        template = {name: value for name, value in variables.items() if name == "chat_template"}
        rest = {name: value for name, value in variables.items() if name not in template}
        return {**guarded(rest, partial(self._split, sentinels)), **template}

    def _guard(self, text: str, sentinels: Sentinels, param: str) -> GuardedText:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidPrompt(param, "half of a surrogate pair is not text; send valid Unicode") from error
        if self._control.is_disguised(text):
            raise InvalidPrompt(param, "spells a control token of this model in another form; reword it")
        return GuardedText(self._control.insert_sentinels(text, sentinels), partial(self._split, sentinels))

    def _split(self, sentinels: Sentinels, spelling: str) -> str:
        """A control token as it stands in guarded text; other text is unchanged."""
        return self._control.insert_sentinels(spelling, sentinels).strip(sentinels.cut)

    def _encode(
        self, prompt: str, sentinels: Sentinels, add_special_tokens: bool, max_tokens: int | None
    ) -> list[int]:
        pieces = list(self._control.split(str(prompt), sentinels))
        return self._encoder.encode(pieces, add_special_tokens=add_special_tokens, max_tokens=max_tokens)


def _guarded_content(content: str | list[Message], guard: Callable[[str], str]) -> str | list[Message]:
    if isinstance(content, str):
        return guard(content)
    return [{**part, "text": guard(part["text"])} if part["type"] == "text" else part for part in content]


def _without_system_role(messages: Sequence[Message]) -> list[Message]:
    """Every system message as the beginning of the next user message, as Gemma 3's template has it."""
    conversation: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(message["content"])
            continue
        if message["role"] == "user":
            if waiting:
                content = with_text_before("\n\n".join(waiting), message["content"])
                message = {"role": "user", "content": content}
            waiting = []
        conversation.append(message)
    return [*conversation, {"role": "user", "content": "\n\n".join(waiting)}] if waiting else conversation

"""vLLM's own output parsers, for the formats that `experts.engine.parsing` does not have."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase
from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser.abstract_parser import Parser
from vllm.parser.parser_manager import ParserManager
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager

from experts.engine.chunk import Part, ReasoningPart, TextPart, ToolCallPart
from experts.engine.parsing import registry
from experts.engine.parsing.output_parser import OutputParser
from experts.engine.parsing.registry import AUTO, NONE, REASONING_PARSERS, TOOL_PARSERS, ParserChoice
from experts.engine.parsing.tool_schemas import ToolSchemas
from experts.engine.request import ChatOptions, EngineRequest
from experts.errors import ModelLoadError


def choose(tokenizer: PreTrainedTokenizerBase, tool_parser: str, reasoning_parser: str) -> ParserChoice:
    """The parsers with these names: this package's, or vLLM's if it alone has one of them.

    Raises:
        ModelLoadError: there is no parser of that name, the two do not go together, or vLLM's cannot be used
            with this tokenizer.
    """
    foreign_tools = _foreign("tool_parser", tool_parser, TOOL_PARSERS, ToolParserManager.list_registered())
    foreign_reasoning = _foreign(
        "reasoning_parser", reasoning_parser, REASONING_PARSERS, ReasoningParserManager.list_registered()
    )
    own = registry.choose(
        str(tokenizer.chat_template or ""),
        NONE if foreign_tools else tool_parser,
        NONE if foreign_reasoning else reasoning_parser,
    )
    if not foreign_tools and not foreign_reasoning:
        return own
    tools, reasoning = foreign_tools or own.tool_parser, foreign_reasoning or own.reasoning_parser
    try:
        parser_type = ParserManager.get_parser(tools, reasoning, enable_auto_tools=True, tokenizer=tokenizer)
    except TypeError as error:
        raise ModelLoadError(
            f"vLLM's parsers {tools} and {reasoning} cannot be used: {error}; set engine.tool_parser and "
            "engine.reasoning_parser to a pair that vLLM supports"
        ) from error
    assert parser_type
    return VllmParserChoice(tools, reasoning, tokenizer=tokenizer, parser_type=parser_type)


@dataclass(frozen=True, kw_only=True)
class VllmParserChoice(ParserChoice):
    """Parsers of vLLM. A tool that the request forces is read by this package all the same."""

    tokenizer: PreTrainedTokenizerBase
    parser_type: type[Parser]

    @property
    def reasoning_end(self) -> str | None:
        reasoning = self.parser_type(self.tokenizer).reasoning_parser
        return reasoning.reasoning_end_str if reasoning else None

    @property
    def shown_tokens(self) -> frozenset[str]:
        """All special tokens, because no parser of vLLM says which ones it needs."""
        return frozenset(self.tokenizer.all_special_tokens)

    def beginnings(self, tools: ToolSchemas) -> tuple[str, ...]:
        return ()

    def format_parser(
        self, request: EngineRequest, options: ChatOptions, tools: ToolSchemas, prompt_tail: str
    ) -> OutputParser | None:
        if not self.reasoning_parser and not tools.names:
            return None
        question = ChatCompletionRequest(
            messages=[],
            tools=[dict(tool) for tool in options.tools] or None,
            tool_choice="auto" if tools.names else "none",
            parallel_tool_calls=options.parallel_tool_calls,
            chat_template_kwargs=dict(options.template_kwargs),
        )
        parser = self.parser_type(
            self.tokenizer, question.tools, chat_template_kwargs=dict(options.template_kwargs)
        )
        return VllmOutputParser(parser, question, self.tokenizer, prompt_tail)


class VllmOutputParser:
    """Gives a parser of vLLM text and, because it looks for special tokens by id, the ids of that text."""

    def __init__(
        self,
        parser: Parser,
        request: ChatCompletionRequest,
        tokenizer: PreTrainedTokenizerBase,
        prompt_tail: str,
    ) -> None:
        self._parser = parser
        self._request = request
        self._tokenizer = tokenizer
        self._prompt_ids = self._ids(prompt_tail)
        is_over = not parser.reasoning_parser or parser.is_reasoning_end(self._prompt_ids)
        self.in_reasoning = not is_over

    def feed(self, text: str) -> tuple[Part, ...]:
        return self._parts(text, is_last=False)

    def close(self) -> tuple[Part, ...]:
        return self._parts("", is_last=True)

    def _parts(self, text: str, *, is_last: bool) -> tuple[Part, ...]:
        delta = self._parser.parse_delta(
            text, self._ids(text), self._request, self._prompt_ids, finished=is_last
        )
        parts = parts_of(delta) if delta else ()
        if parts:
            self.in_reasoning = isinstance(parts[-1], ReasoningPart)
        return parts

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def parts_of(delta: DeltaMessage) -> tuple[Part, ...]:
    parts: list[Part] = []
    if delta.reasoning:
        parts.append(ReasoningPart(delta.reasoning))
    if delta.content:
        parts.append(TextPart(delta.content))
    for call in delta.tool_calls:
        if call.function:
            parts.append(ToolCallPart(call.index, call.function.name, call.function.arguments or ""))
    return tuple(parts)


def _foreign(setting: str, name: str, own: Collection[str], foreign: Collection[str]) -> str | None:
    """The name, if it is not one of this package's parsers."""
    if name in (AUTO, NONE, *own):
        return None
    if name not in foreign:
        raise registry.unknown(setting, name, sorted({*own, *foreign}))
    return name

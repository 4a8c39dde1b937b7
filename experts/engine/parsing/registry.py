"""Which parser reads the output of a model, by its settings or by its chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from experts.engine.parsing import harmony
from experts.engine.parsing.after_thoughts import AfterThoughts
from experts.engine.parsing.forced_calls import ForcedCallParser
from experts.engine.parsing.formats import CALL_FORMATS, THINK_MARKS
from experts.engine.parsing.harmony import HarmonyParser
from experts.engine.parsing.output_parser import MarkedParser, OutputParser
from experts.engine.parsing.tool_schemas import ToolSchemas
from experts.engine.request import ChatOptions, EngineRequest
from experts.errors import InvalidPrompt, ModelLoadError

AUTO, NONE = "auto", "none"
TEXT_TOOL_PARSER = "hermes"  # the format that `tool_text` explains to models whose template knows no tools
_HARMONY_TOOLS, _HARMONY_REASONING = "openai", "openai_gptoss"
TOOL_PARSERS = tuple(sorted([*CALL_FORMATS, _HARMONY_TOOLS]))
REASONING_PARSERS = tuple(sorted([*THINK_MARKS, _HARMONY_REASONING]))

# The first mark that occurs in a chat template names the parser.
_TOOLS_BY_MARK = {
    harmony.CHANNEL: _HARMONY_TOOLS,
    "<｜tool▁call▁begin｜>": "deepseek_v3",
    "<|tool_call_begin|>": "kimi_k2",
    "[TOOL_CALLS]": "mistral",
    "<seed:tool_call>": "seed_oss",
    "<minimax:tool_call>": "minimax_m2",
    "<longcat_tool_call>": "longcat",
    "<arg_key>": "glm45",
    "<function=": "qwen3_coder",
    "<|tool_call_start|>": "lfm2",
    "<|action_start|>": "internlm",
    "<|tool_call|>": "granite",
    "<tool_calls>": "jamba",
    "<tool_call>": "hermes",
    "<function_calls>": "olmo3",
    "<|python_start|>": "llama4_pythonic",
    "<|python_tag|>": "llama3_json",
    "functools": "phi4_mini_json",
}
_REASONING_BY_MARK = {
    harmony.CHANNEL: _HARMONY_REASONING,
    "[THINK]": "mistral",
    "<seed:think>": "seed_oss",
    "<think>": "qwen3",
    "</think>": "qwen3",
}
_SPECIAL_TOKEN = re.compile(r"<[^<>\s]+>|\[[^][\s]+\]")


@dataclass(frozen=True)
class ParserChoice:
    """How the output of one model is parsed. None: calls, or thoughts, are not sought."""

    tool_parser: str | None = None
    reasoning_parser: str | None = None

    @property
    def reasoning_end(self) -> str | None:
        """The mark after which the model's thoughts have ended."""
        if self._is_harmony:
            return f"{harmony.CHANNEL}final{harmony.MESSAGE}"
        return THINK_MARKS[self.reasoning_parser].end if self.reasoning_parser else None

    @property
    def shown_tokens(self) -> frozenset[str]:
        """The tokens that the parser must find in the text, also if the tokenizer calls them special."""
        if self._is_harmony:
            return harmony.TOKENS
        marks: list[str] = []
        if self.tool_parser:
            marks += CALL_FORMATS[self.tool_parser].marks
        if self.reasoning_parser:
            think = THINK_MARKS[self.reasoning_parser]
            marks += [think.start, think.end]
        return frozenset(token for mark in marks for token in _SPECIAL_TOKEN.findall(mark))

    def parser(self, request: EngineRequest, prompt_tail: str) -> OutputParser | None:
        """The parser of one generation; None if its whole text is the answer's.

        Args:
            prompt_tail: The last PROMPT_TAIL_CHARS of the prompt's text, with `shown_tokens`, and without
                `request.resumed`, whose text the parser has to be fed.
        """
        if request.messages is None:
            return None
        options = request.chat or ChatOptions()
        tools = ToolSchemas(options.tools if options.tool_choice != "none" else ())
        if tools.names and options.tool_choice != "auto":
            name = None if options.tool_choice == "required" else options.tool_choice
            forced = ForcedCallParser(name, is_parallel=options.parallel_tool_calls)
            thoughts = self.format_parser(request, options, ToolSchemas(()), prompt_tail)
            return AfterThoughts(thoughts, forced) if thoughts else forced
        return self.format_parser(request, options, tools, prompt_tail)

    def format_parser(
        self, request: EngineRequest, options: ChatOptions, tools: ToolSchemas, prompt_tail: str
    ) -> OutputParser | None:
        """The parser of the model's own format. `tools` are empty if calls are not sought."""
        is_parallel = options.parallel_tool_calls
        if not self.tool_parser:
            tools = ToolSchemas(())
        if self._is_harmony:
            return HarmonyParser(tools, prompt_tail, is_parallel=is_parallel)
        think = THINK_MARKS[self.reasoning_parser] if self.reasoning_parser else None
        calls = CALL_FORMATS[self.tool_parser] if self.tool_parser and tools.names else None
        if think is None and calls is None:
            return None
        is_open = think is not None and think.is_open(prompt_tail, has_answer=bool(request.written))
        has_form = request.has_grammar
        return MarkedParser(think, calls, tools, is_open=is_open, is_parallel=is_parallel, has_form=has_form)

    def call_beginnings(self, request: EngineRequest) -> tuple[str, ...]:
        """How an answer begins if and only if it is a call. Empty if it has to match no grammar otherwise.

        Raises InvalidPrompt: calls of this model cannot be read.
        """
        chat = request.chat
        if chat is None or not chat.tools or chat.tool_choice != "auto":
            return ()
        if self.tool_parser is None:
            raise InvalidPrompt(
                "tools",
                "this server does not know how this model writes tool calls: set engine.tool_parser, or "
                "force a call with tool_choice",
            )
        if not request.has_grammar:
            return ()
        beginnings = self.beginnings(ToolSchemas(chat.tools))
        if not beginnings:
            reason = (
                "calls of this model cannot be told from an answer in a given form: send one or the other"
            )
            raise InvalidPrompt("tools", reason)
        return beginnings

    def beginnings(self, tools: ToolSchemas) -> tuple[str, ...]:
        """How a call of one of the tools begins. Empty if the format has no certain beginning."""
        calls = CALL_FORMATS.get(self.tool_parser or "")
        if calls is None or self._is_harmony:
            return ()
        return (*calls.begins, *(text for name in tools.names for text in _opened(calls.openers, name)))

    @property
    def _is_harmony(self) -> bool:
        return self.tool_parser == _HARMONY_TOOLS or self.reasoning_parser == _HARMONY_REASONING


def _opened(openers: Sequence[str], name: str) -> Iterator[str]:
    """How a call of the tool begins without a mark of its own."""
    if "{" in openers:
        yield from (f'{{"name":{blank}{json.dumps(name)}' for blank in (" ", ""))
    if "[" in openers:
        yield f"[{name}("


def choose(chat_template: str, tool_parser: str = AUTO, reasoning_parser: str = AUTO) -> ParserChoice:
    """The parsers with these names. `auto` takes those whose marks occur in the chat template, `none` none.

    A template that knows no tools gets them as text, in a format of its own.

    Raises:
        ModelLoadError: there is no parser of that name, or the two do not go together.
    """
    if tool_parser == AUTO and "tools" not in chat_template and harmony.CHANNEL not in chat_template:
        tool_parser = TEXT_TOOL_PARSER
    tools = _found("tool_parser", tool_parser, TOOL_PARSERS, _TOOLS_BY_MARK, chat_template)
    reasoning = _found(
        "reasoning_parser", reasoning_parser, REASONING_PARSERS, _REASONING_BY_MARK, chat_template
    )
    if tools and reasoning and (tools == _HARMONY_TOOLS) != (reasoning == _HARMONY_REASONING):
        raise ModelLoadError(
            f"tool_parser {tools} and reasoning_parser {reasoning} do not go together; "
            f"{_HARMONY_TOOLS} goes with {_HARMONY_REASONING} only"
        )
    return ParserChoice(tools, reasoning)


def unknown(setting: str, name: str, names: Iterable[str]) -> ModelLoadError:
    """The error for a parser that does not exist. `names` are those that do."""
    return ModelLoadError(f"there is no {setting} '{name}'; there are {', '.join([AUTO, NONE, *names])}")


def _found(
    setting: str, name: str, names: Sequence[str], by_mark: Mapping[str, str], chat_template: str
) -> str | None:
    if name == AUTO:
        return next((found for mark, found in by_mark.items() if mark in chat_template), None)
    if name != NONE and name not in names:
        raise unknown(setting, name, names)
    return None if name == NONE else name

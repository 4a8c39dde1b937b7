"""vLLM's own output parsers, for the formats that `experts.engine.parsing` does not have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase
from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser.abstract_parser import Parser
from vllm.parser.parser_manager import ParserManager
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager

from experts.engine.chunk import Part, ReasoningPart, TextPart, ToolCallPart
from experts.engine.parsing.output_parser import OutputParser
from experts.engine.parsing.registry import AUTO, NONE, REASONING_PARSERS, TOOL_PARSERS, ParserChoice
from experts.engine.parsing.registry import choose as choose_own
from experts.engine.parsing.tool_schemas import ToolSchemas
from experts.engine.request import ChatOptions, EngineRequest
from experts.errors import ModelLoadError


def choose(tokenizer: PreTrainedTokenizerBase, tool_parser: str, reasoning_parser: str) -> ParserChoice:
    """The parsers with these names: this package's where it has both, else vLLM's.

    Raises:
        ModelLoadError: there is no parser of that name, or vLLM's cannot be used with this tokenizer.
    """
    template = str(tokenizer.chat_template or "")
    only_vllm = (
        tool_parser in {*ToolParserManager.list_registered()} - {*TOOL_PARSERS},
        reasoning_parser in {*ReasoningParserManager.list_registered()} - {*REASONING_PARSERS},
    )

"""The formats of known models, by the names that vLLM has for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from experts.engine.parsing.call_format import CallFormat
from experts.engine.parsing.json_calls import JsonCalls
from experts.engine.parsing.output_parser import ThinkMarks
from experts.engine.parsing.pythonic_calls import PythonicCalls
from experts.engine.parsing.xml_calls import XmlCalls

_HERMES = JsonCalls(begins=("<tool_call>",), ends=("</tool_call>",))
_LLAMA = JsonCalls(begins=("<|python_tag|>",), openers=("{",), ends=(";",))
_DEEPSEEK = JsonCalls(
    begins=("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
    ends=("```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
    is_named=True,
    before_name=("function<｜tool▁sep｜>",),
    after_name=("<｜tool▁sep｜>", "```json"),
)
_QWEN_CODER = XmlCalls(
    begins=("<tool_call>", "<function="),
    ends=("</tool_call>",),
    before_name="<function=",
    after_name=">",
    before_key="<parameter=",
    after_key=">",
    after_value="</parameter>",
    function_end="</function>",
    has_lines=True,
)
_GLM = XmlCalls(
    begins=("<tool_call>",),
    ends=("</tool_call>",),
    before_key="<arg_key>",
    after_key="</arg_key>",
    before_value="<arg_value>",
    after_value="</arg_value>",
    function_end="</tool_call>",
)

CALL_FORMATS: Mapping[str, CallFormat] = {
    "deepseek_v3": _DEEPSEEK,
    "deepseek_v31": _DEEPSEEK,
    "glm45": _GLM,
    "glm47": _GLM,
    "granite": JsonCalls(begins=("<|tool_call|>", "<tool_call>"), ends=("</tool_call>",)),
    "granite4": _HERMES,
    "hermes": _HERMES,
    "internlm": JsonCalls(begins=("<|action_start|><|plugin|>",), ends=("<|action_end|>",)),
    "jamba": JsonCalls(begins=("<tool_calls>",), ends=("</tool_calls>",)),
    "kimi_k2": JsonCalls(
        begins=("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
        ends=("<|tool_call_end|>", "<|tool_calls_section_end|>"),
        is_named=True,
        after_name=("<|tool_call_argument_begin|>",),
    ),
    "lfm2": PythonicCalls(begins=("<|tool_call_start|>",), ends=("<|tool_call_end|>",)),
    "llama3_json": _LLAMA,
    "llama4_json": _LLAMA,
    "llama4_pythonic": PythonicCalls(begins=("<|python_start|>",), openers=("[",), ends=("<|python_end|>",)),
    "longcat": JsonCalls(begins=("<longcat_tool_call>",), ends=("</longcat_tool_call>",)),
    "minimax_m2": XmlCalls(
        begins=("<minimax:tool_call>", '<invoke name="'),
        ends=("</minimax:tool_call>",),
        before_name='<invoke name="',
        after_name='">',
        before_key='<parameter name="',
        after_key='">',
        after_value="</parameter>",
        function_end="</invoke>",
    ),
    "mistral": JsonCalls(begins=("[TOOL_CALLS]",), is_named=True, after_name=("[CALL_ID]", "[ARGS]")),
    "olmo3": PythonicCalls(begins=("<function_calls>",), ends=("</function_calls>",)),
    "phi4_mini_json": JsonCalls(begins=("functools",)),
    "pythonic": PythonicCalls(openers=("[",)),
    "qwen3_coder": _QWEN_CODER,
    "qwen3_json": _HERMES,
    "qwen3_xml": _QWEN_CODER,
    "seed_oss": replace(_QWEN_CODER, begins=("<seed:tool_call>", "<function="), ends=("</seed:tool_call>",)),
}

_THINK = ThinkMarks("<think>", "</think>")
_THINK_UNTIL_CALL = ThinkMarks("<think>", "</think>", ends_with_call=True)

THINK_MARKS: Mapping[str, ThinkMarks] = {
    "deepseek_r1": ThinkMarks("<think>", "</think>", may_lack_start=True),
    "deepseek_v3": _THINK,
    "glm45": _THINK_UNTIL_CALL,
    "glm47": _THINK_UNTIL_CALL,
    "granite": ThinkMarks("Here is my thought process:", "Here is my response:"),
    "holo2": _THINK,
    "kimi_k2": _THINK_UNTIL_CALL,
    "minimax_m2": _THINK_UNTIL_CALL,
    "mistral": ThinkMarks("[THINK]", "[/THINK]", ends_with_call=True),
    "olmo3": _THINK,
    "qwen3": _THINK_UNTIL_CALL,
    "seed_oss": ThinkMarks("<seed:think>", "</seed:think>", ends_with_call=True),
    "step3": _THINK,
}

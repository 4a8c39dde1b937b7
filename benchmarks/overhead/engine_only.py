"""vLLM's engine in this process, without a server."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from benchmarks.overhead.client import Answer
from benchmarks.overhead.model import Model


@dataclass
class EngineCaller:
    llm: Any
    tokenizer: PreTrainedTokenizerBase
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    async def __call__(self, question: str, num_tokens: int) -> Answer:
        began_s, first_s, text = time.perf_counter(), 0.0, ""
        messages = [{"role": "user", "content": question}]
        prompt = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        params = SamplingParams(
            temperature=0.0, max_tokens=num_tokens, output_kind=RequestOutputKind.DELTA, detokenize=True
        )
        async for output in self.llm.generate(tokens_input(prompt), params, str(next(self._numbers))):
            first_s = first_s or time.perf_counter()
            text += output.outputs[0].text
        return Answer(began_s, first_s, time.perf_counter(), text)


@contextmanager
def engine_only(model: Model) -> Iterator[EngineCaller]:
    args: dict[str, Any] = model.engine_args
    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(model=str(model.folder), disable_log_stats=True, **args))
    try:
        yield EngineCaller(llm, AutoTokenizer.from_pretrained(model.folder))
    finally:
        llm.shutdown()

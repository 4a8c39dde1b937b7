"""vLLM's pipeline stages on a CPU, without compilation.

A stage receives activations into buffers that vLLM makes when it warms up. On a CPU it does not warm up if
nothing is compiled; on a GPU it always does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experts.engine.vllm.worker import ExpertWorker


class WarmCpuWorker(ExpertWorker):
    """The worker extension in a process that has those buffers."""

    def open_expert_head(self, folder: str, tokenizer: str, end_id: int, shown: Sequence[str]) -> None:
        runner: Any = self.model_runner
        runner.intermediate_tensors = runner.model.make_empty_intermediate_tensors(
            batch_size=runner.max_num_tokens, dtype=runner.dtype, device=runner.device
        )
        super().open_expert_head(folder, tokenizer, end_id, shown)

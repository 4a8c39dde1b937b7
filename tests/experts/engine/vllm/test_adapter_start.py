"""Adapters that apply from one position of a request on: in the rows of a step, and in the prefix cache."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experts.engine.vllm.adapter_rows import AdapterRows, name_of, start_of
from tests.support.engine_world import needs_vllm

BLOCK_SIZE = 4
TOKENS = list(range(100, 118))


def lora(start: int) -> Any:
    return SimpleNamespace(lora_name=name_of("law@court", 3, start))


def test_the_name_of_an_adapter_tells_where_it_starts():
    assert start_of(lora(17)) == 17
    assert name_of("law", 1, 0) != name_of("law", 2, 0)


def test_tokens_before_the_start_of_their_adapter_have_none():
    """Of two requests with adapters that begin at 5 and 0, one without, and one that is past its start."""
    batch = SimpleNamespace(
        num_reqs=4,
        req_ids=["a", "b", "c", "d"],
        request_lora_mapping=np.array([3, 3, 0, 3, 9]),
        num_computed_tokens_cpu=np.array([2, 0, 7, 6]),
        make_lora_inputs=lambda num_tokens, num_sampled: (
            (3, 3, 0, 3),
            tuple(np.array([3, 3, 0, 3]).repeat(num_tokens)),
            {"adapters"},
        ),
    )
    starts = {"a": 5, "b": 0, "d": 6}
    requests = {name: SimpleNamespace(lora_request=lora(start)) for name, start in starts.items()}
    AdapterRows(SimpleNamespace(input_batch=batch, requests=requests))

    def of_tokens(*num_tokens: int) -> list[int]:
        of_sampled, found, adapters = batch.make_lora_inputs(np.array(num_tokens), np.ones(4, dtype=int))
        assert (of_sampled, adapters) == ((3, 3, 0, 3), {"adapters"})
        return list(found)

    assert of_tokens(5, 2, 1, 1) == [0, 0, 0, 3, 3, 3, 3, 0, 3]
    assert of_tokens(2, 2, 1, 1) == [0, 0, 3, 3, 0, 3]  # a piece of the prompt that ends before the start


@needs_vllm
@pytest.mark.filterwarnings("default")  # vLLM's own code warns
def test_blocks_before_the_start_are_those_of_the_base_and_no_others():
    base = hashes(None)
    assert len(base) == 4
    for start, num_shared in ((0, 0), (3, 0), (4, 1), (11, 2), (12, 3), (17, 4)):
        own = hashes(start)
        assert own[:num_shared] == base[:num_shared]
        assert not set(own[num_shared:]) & set(base)
        assert not set(own[num_shared:]) & set(hashes(start + 1)[num_shared:])  # it began elsewhere


def hashes(start: int | None) -> list[bytes]:
    """Of the blocks of TOKENS with an adapter from `start` on, the last two of them written by the model."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.request import Request

    from experts.engine.vllm.scheduler import SharedBlocks

    class Added:
        def add_request(self, request: Request) -> None:
            self.added = request

    class Scheduler(SharedBlocks, Added):
        hash_block_size = BLOCK_SIZE

    init_none_hash(sha256)
    request = Request(
        "r",
        TOKENS[:-2],
        SamplingParams(max_tokens=4),
        None,
        lora_request=None if start is None else LoRARequest(name_of("law", 1, start), 1, "/law"),
        block_hasher=get_request_block_hasher(BLOCK_SIZE, sha256),
    )
    scheduler = Scheduler()
    scheduler.add_request(request)
    scheduler.added.append_output_token_ids(TOKENS[-2:])
    return list(scheduler.added.block_hashes)

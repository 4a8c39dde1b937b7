"""The KV cache of a continuous batch, which keeps what it has read for requests that begin with the same.

The library finds a kept block by its tokens alone, forgets all kept blocks as soon as room is short, and
keeps nothing of the step that ends a request. Here a block is found only by requests of the same writer and
salt, and the least recently used blocks are forgotten first, each when a running request needs its room.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any

from transformers.generation.continuous_batching import PagedAttentionCache, continuous_api
from transformers.generation.continuous_batching.cache_allocators import CacheAllocator
from transformers.generation.continuous_batching.requests import RequestState

HASH_BYTES = 16


@dataclass(frozen=True, slots=True)
class Writer:
    """Who computes the keys and values of a request: the model without an adapter before position `start`,
    and from there on adapter number `adapter`. None: the model alone. Requests find only what was computed
    with their own `salt`."""

    adapter: int | None = None
    start: int = 0
    salt: str = ""


def register() -> None:
    """Replace the library's class in this process."""
    continuous_api.PagedAttentionCache = PrefixCache  # type: ignore[attr-defined]


class PrefixCache(PagedAttentionCache):
    """`writer_of`: the writer of a request; None if the request is not known, or no longer. Then nothing that
    it computes is kept. `num_found_tokens`: of all prompts so far, tokens that were not computed again;
    `on_found` is told those of each request."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.writer_of: Callable[[str], Writer | None] = lambda request_id: None
        self.on_found: Callable[[str, int], None] = lambda request_id, num_tokens: None
        self.num_found_tokens = 0

    @property
    def kept(self) -> float:
        """The fraction of the cache whose blocks no running request uses, and a later one may find."""
        num_bytes = len(self._blocks.ledger.cached_blocks) * self._blocks.bytes_per_block
        return num_bytes / (self.num_sectors * self.bytes_per_sector)

    def write_again(self, request_id: str, start: int) -> int:
        """Let go of the blocks that hold a request's tokens from `start` on, because it computes them again.

        Returns where it has to begin: others may read a complete block, so nothing is written to it.
        """
        if not self.use_prefix_sharing:
            return start
        blocks, table = self._blocks, self._blocks.block_table[request_id]
        num_kept = start // blocks.tokens_per_page
        if table[num_kept] in blocks.ledger.block_to_hash:
            start = num_kept * blocks.tokens_per_page
        else:
            num_kept += 1
        released = [block for block in reversed(table[num_kept:]) if blocks.ledger.release(block)]
        self.pool.free_blocks(blocks.index, released)
        del table[num_kept:]
        return start

    def search_prefix_match(self, request_id: str, prompt_ids: list[int]) -> int:
        """Have the request share the blocks of the beginning of its prompt. Returns how many tokens that
        is; never all, because the last one has to be computed."""
        writer = self.writer_of(request_id)
        found = self._find(writer, prompt_ids[:-1]) if writer else []
        if not found:
            return 0
        num_tokens = len(found) * self._blocks.tokens_per_page
        self._blocks.acquire_prefix_blocks(request_id, num_tokens, found)
        self.num_found_tokens += num_tokens
        self.on_found(request_id, num_tokens)
        return num_tokens

    def mark_complete_blocks(self, state: RequestState, complete_blocks: dict[str, int]) -> None:
        """Called after a step that completed blocks of the request: let other requests find them."""
        writer = self.writer_of(state.request_id) if complete_blocks else None
        if writer is None:
            return
        blocks, table = self._blocks, self._blocks.block_table[state.request_id]
        ledger, page, block_hash = blocks.ledger, blocks.tokens_per_page, _root(writer)
        ids = state.initial_tokens + state.generated_tokens
        # `position_offset` is less than what is computed if tokens are going to be computed again.
        for number, end in enumerate(range(page, state.position_offset + 1, page)):
            block = table[number]
            known = ledger.block_to_hash.get(block)
            block_hash = known or _hash(block_hash, ids[end - page : end], end, writer)
            twin = None if known else ledger.register_new_hash(block, block_hash)
            if twin is not None:  # another request has computed the same
                ledger.acquire(twin)
                table[number] = twin
                self.pool.free_blocks(blocks.index, [block])

    def can_store_request_tokens(self, state: RequestState, request_len: int, dry_run: bool = False) -> bool:
        if self.use_prefix_sharing and not dry_run:
            self._make_room(self._blocks.needs_new_blocks(state.request_id, state.current_len(), request_len))
        return super().can_store_request_tokens(state, request_len, dry_run)

    def free_blocks(self, request_id: str, no_cache: bool = False) -> None:
        # The end of a text is forgotten before its beginning, without which it would not be found.
        self._blocks.block_table.get(request_id, []).reverse()
        super().free_blocks(request_id, no_cache)

    def compute_free_capacity(self, relative: bool = True) -> int | float:
        """With the kept blocks, which running requests get when they need them."""
        num_bytes = len(self._blocks.ledger.cached_blocks) * self._blocks.bytes_per_block
        total = self.num_sectors * self.bytes_per_sector if relative else 1
        return super().compute_free_capacity(relative) + num_bytes / total

    def evict_cached_blocks(self) -> bool:
        """The library would make room for later steps. Here each step makes its own room."""
        return False

    def count_storable_requests(self, list_blocks_needed: list[dict[str, int]]) -> int:
        """Called when there is too little room even without the kept blocks."""
        super().evict_cached_blocks()
        return super().count_storable_requests(list_blocks_needed)

    @property
    def _blocks(self) -> CacheAllocator:
        """The only allocator, if blocks can be shared."""
        return next(iter(self.cache_allocators.values()))

    def _find(self, writer: Writer, ids: list[int]) -> list[int]:
        """The blocks that hold the beginning of `ids`, in order."""
        blocks, found = self._blocks, list[int]()
        page, block_hash = blocks.tokens_per_page, _root(writer)
        for end in range(page, len(ids) + 1, page):
            block_hash = _hash(block_hash, ids[end - page : end], end, writer)
            block = blocks.ledger.hash_to_block.get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    def _make_room(self, num_needed: int) -> None:
        """Forget so many kept blocks that `num_needed` are free, or none if that is not enough."""
        blocks, ledger = self._blocks, self._blocks.ledger
        num_free = self.pool.count_free_blocks(blocks.index)
        num_missing = num_needed - num_free - self.pool.num_free_sectors * blocks.blocks_per_sector
        if not 0 < num_missing <= len(ledger.cached_blocks):
            return
        forgotten = list(islice(ledger.cached_blocks, num_missing))
        for block in forgotten:
            del ledger.cached_blocks[block]
            del ledger.hash_to_block[ledger.block_to_hash.pop(block)]
        self.pool.free_blocks(blocks.index, forgotten)


def _root(writer: Writer) -> int:
    """What stands for the parent of the first block, so that all hashes of a text depend on the salt."""
    if not writer.salt:
        return 0
    return int.from_bytes(blake2b(writer.salt.encode(), digest_size=HASH_BYTES).digest(), "little")


def _hash(parent: int, ids: list[int], end: int, writer: Writer) -> int:
    """Of a block with these tokens, which ends before position `end`, after the block with hash `parent`."""
    digest = blake2b(parent.to_bytes(HASH_BYTES, "little"), digest_size=HASH_BYTES)
    digest.update(array("q", ids))
    if writer.adapter is not None and end > writer.start:
        digest.update(b"adapter %d from %d" % (writer.adapter, writer.start))
    return int.from_bytes(digest.digest(), "little")

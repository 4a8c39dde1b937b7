"""LoRA adapters beside each other in one batch: each row gets what its own adapter adds to a linear module.

The weights of all adapters of a module lie in two stacks. Rows are grouped by adapter, and all groups are
multiplied in one batched product, padded to the largest. Groups of very different sizes, as when one request
is prefilled while others decode, are multiplied one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from experts.engine.hf.lora_files import LoraWeights

# Pad to at most this multiple of the rows, or to this number of rows, which costs less than single products.
MAX_PADDING = 2
MIN_PADDED_ROWS = 128


@dataclass(frozen=True)
class LoraStacks:
    """The adapters of one linear module: `a` [N, R, in] and `b` [N, R, out] for N slots and ranks up to R;
    smaller ranks are padded with zeros."""

    a: Tensor
    b: Tensor


class PaddedGroups:
    """Groups of W rows, one for each slot of `span`, in place of the P rows that have an adapter.

    `rows`: int [P], these rows. `padded_rows`: int [slots · W]; padding repeats row 0. `places`: int [P],
    where each of the P rows is in the padded groups; None if there is no padding.
    """

    def __init__(self, span: slice, rows: Tensor, padded_rows: Tensor, places: Tensor | None) -> None:
        self._span = span
        self._rows = rows
        self._padded_rows = padded_rows
        self._places = places
        self._inputs: Tensor | None = None
        self._version = 0  # torch counts changes in place
        self._groups = torch.empty(0)

    @classmethod
    def of(cls, groups: Mapping[int, Sequence[int]], device: torch.device) -> PaddedGroups | None:
        """`groups`: rows by slot. None if there would be too much padding."""
        span, width = range(min(groups), max(groups) + 1), max(map(len, groups.values()))
        rows = [row for slot in span for row in groups.get(slot, ())]
        num_padded = len(span) * width
        if num_padded > max(MIN_PADDED_ROWS, MAX_PADDING * len(rows)) or len(span) > 2 * len(groups):
            return None
        padded = [(*groups.get(slot, ()), *width * [0])[:width] for slot in span]
        places = [n * width + i for n, slot in enumerate(span) for i in range(len(groups.get(slot, ())))]
        return cls(
            slice(span.start, span.stop),
            torch.tensor(rows, device=device),
            torch.tensor(padded, device=device).flatten(),
            torch.tensor(places, device=device) if num_padded > len(rows) else None,
        )

    def add_to(self, output: Tensor, inputs: Tensor, stacks: LoraStacks) -> None:
        """Changes `output`, float [T, out], in place; `inputs`: float [1, T, in] or [T, in]."""
        # Some modules have the same inputs, such as those of queries, keys and values.
        if inputs is not self._inputs or inputs._version != self._version:
            self._inputs, self._version = inputs, inputs._version
            rows = inputs.reshape(-1, inputs.shape[-1])[self._padded_rows]
            self._groups = rows.view(self._span.stop - self._span.start, -1, rows.shape[1])
        a, b = stacks.a[self._span], stacks.b[self._span]
        added = torch.bmm(torch.bmm(self._groups, a.transpose(1, 2)), b).flatten(0, 1)
        output.index_add_(0, self._rows, added if self._places is None else added[self._places])


class SingleGroups:
    """The rows of each slot, for groups that are multiplied one by one."""

    def __init__(self, groups: Mapping[int, Sequence[int]], device: torch.device) -> None:
        self._groups = [(slot, _index(rows, device)) for slot, rows in groups.items()]

    def add_to(self, output: Tensor, inputs: Tensor, stacks: LoraStacks) -> None:
        """As `PaddedGroups.add_to`."""
        inputs = inputs.reshape(-1, inputs.shape[-1])
        for slot, rows in self._groups:
            output[rows] += (inputs[rows] @ stacks.a[slot].T) @ stacks.b[slot]


class LoraLayers:
    """The linear modules of a model, with adapters in `num_slots` slots.

    One thread may load adapters while another one runs the model.
    """

    def __init__(self, model: nn.Module, num_slots: int, device: torch.device) -> None:
        self._model = model
        self._num_slots = num_slots
        self._device = device
        self._loaded: dict[str, LoraStacks] = {}  # by name of the module; replaced as a whole
        self._in_use: dict[str, LoraStacks] = {}
        self._groups: PaddedGroups | SingleGroups | None = None

    def load(self, slot: int, weights: Mapping[str, LoraWeights]) -> None:
        """Write an adapter, by name of the module, into a slot that no row uses."""
        for name, stacks in self._loaded.items():
            if name not in weights:
                stacks.b[slot].zero_()
        changed = {name: self._with(name, slot, each) for name, each in weights.items()}
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # the model computes on another stream
        self._loaded = {**self._loaded, **changed}

    def begin_step(self, spans: Sequence[tuple[int, int]]) -> None:
        """Called by the thread that runs the model. `spans`: slot, or −1, and number of rows of each request,
        in the order of the batch."""
        groups = _rows_by_slot(spans)
        self._groups = None
        if groups:
            self._groups = PaddedGroups.of(groups, self._device) or SingleGroups(groups, self._device)
        loaded = self._loaded
        for name in loaded.keys() - self._in_use.keys():
            self._hook(name)
        # Only here, between two steps, stacks that were replaced leave the memory.
        self._in_use = loaded

    def _with(self, name: str, slot: int, weights: LoraWeights) -> LoraStacks:
        """The module's stacks with these weights; new ones if the present ones are too small."""
        stacks, rank = self._loaded.get(name), weights.a.shape[0]
        if stacks is None or stacks.a.shape[1] < rank:
            a, b = (stacks.a, stacks.b) if stacks else (None, None)
            stacks = LoraStacks(self._enlarged(a, weights.a), self._enlarged(b, weights.b))
        for stack, matrix in ((stacks.a, weights.a), (stacks.b, weights.b)):
            stack[slot, :rank] = matrix.to(self._device)
            stack[slot, rank:].zero_()
        return stacks

    def _enlarged(self, stack: Tensor | None, matrix: Tensor) -> Tensor:
        larger = torch.zeros(self._num_slots, *matrix.shape, dtype=matrix.dtype, device=self._device)
        if stack is not None:
            larger[:, : stack.shape[1]] = stack
        return larger

    def _hook(self, name: str) -> None:
        def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if self._groups is not None:
                self._groups.add_to(output.view(-1, output.shape[-1]), args[0], self._in_use[name])

        self._model.get_submodule(name).register_forward_hook(add)


def _rows_by_slot(spans: Sequence[tuple[int, int]]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    first = 0
    for slot, num_rows in spans:
        if slot >= 0:
            groups.setdefault(slot, []).extend(range(first, first + num_rows))
        first += num_rows
    return groups


def _index(rows: Sequence[int], device: torch.device) -> slice | Tensor:
    """A slice if the rows lie together, because it makes a view and not a copy."""
    if rows[-1] - rows[0] + 1 == len(rows):
        return slice(rows[0], rows[-1] + 1)
    return torch.tensor(rows, device=device)

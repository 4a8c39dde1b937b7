"""Rows of several adapters, and of none, are computed beside each other as if each were alone."""

import pytest
import torch
from torch import Tensor, nn

from experts.engine.hf.lora_files import LoraWeights
from experts.engine.hf.lora_layers import LoraLayers

CPU = torch.device("cpu")
NUM_SLOTS = 5
SPANS = {
    "decode": [(0, 1), (2, 1), (-1, 1), (0, 1), (3, 1), (-1, 1)],  # padded groups, one of them empty
    "prefill": [(1, 30), (-1, 40), (2, 20), (1, 1), (-1, 1), (4, 60)],  # groups one by one
    "far apart": [(0, 2), (-1, 1), (4, 3)],
    "one": [(3, 4), (-1, 2)],
}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(24, 40)
        self.second = nn.Linear(40, 16, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        output: Tensor = self.second(self.first(rows))
        return output


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def adapter(
    seed: int, *, rank: int = 4, names: tuple[str, ...] = ("first", "second")
) -> dict[str, LoraWeights]:
    generator = torch.Generator().manual_seed(seed)
    sizes = {"first": (24, 40), "second": (40, 16)}
    return {
        name: LoraWeights(
            torch.randn(rank, sizes[name][0], generator=generator),
            torch.randn(rank, sizes[name][1], generator=generator),
        )
        for name in names
    }


def alone(row: Tensor, weights: dict[str, LoraWeights]) -> Tensor:
    """What the model computes for one row [24] whose adapter is merged into it."""
    model = Model()
    for name, each in weights.items():
        model.get_submodule(name).weight += each.b.T @ each.a  # type: ignore[operator]
    return model(row)


def rows_of(spans: list[tuple[int, int]]) -> tuple[Tensor, list[int]]:
    slots = [slot for slot, num_rows in spans for _ in range(num_rows)]
    return torch.randn(1, len(slots), 24, generator=torch.Generator().manual_seed(9)), slots


@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
def test_each_row_gets_what_its_own_adapter_adds(spans):
    adapters = {slot: adapter(slot, rank=2 + slot) for slot in range(NUM_SLOTS)}
    model = Model()
    layers = LoraLayers(model, NUM_SLOTS, CPU)
    for slot, weights in adapters.items():
        layers.load(slot, weights)
    layers.begin_step(spans)
    rows, slots = rows_of(spans)
    for output, row, slot in zip(model(rows)[0], rows[0], slots, strict=True):
        expected = alone(row, adapters.get(slot, {}))
        torch.testing.assert_close(output, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
def test_rows_without_an_adapter_stay_the_same_bits(spans):
    model = Model()
    rows, slots = rows_of(spans)
    is_base = torch.tensor(slots) < 0
    plain = model(rows)[0, is_base]
    layers = LoraLayers(model, NUM_SLOTS, CPU)
    for slot in range(NUM_SLOTS):
        layers.load(slot, adapter(slot))
    layers.begin_step(spans)
    assert torch.equal(model(rows)[0, is_base].view(torch.int32), plain.view(torch.int32))


def test_an_overflow_in_one_adapter_does_not_reach_rows_of_another():
    """In float16 the product of a row with another row's adapter can be infinite, and ∞ · 0 is NaN."""
    model = Model().half()
    layers = LoraLayers(model, 2, CPU)
    huge = {name: LoraWeights(each.a * 1e4, each.b) for name, each in adapter(1).items()}
    for slot, weights in enumerate((adapter(0), huge)):
        layers.load(slot, {name: LoraWeights(each.a.half(), each.b.half()) for name, each in weights.items()})
    layers.begin_step([(0, 1), (1, 1), (-1, 1)])
    output = model(rows_of([(0, 3)])[0].half())[0]
    assert output[[0, 2]].isfinite().all()
    assert not output[1].isfinite().all()


@pytest.mark.parametrize("rank", [2, 4, 8])
def test_a_slot_is_used_again_with_another_rank_and_fewer_modules(rank):
    model = Model()
    layers = LoraLayers(model, 2, CPU)
    layers.load(0, adapter(0))
    layers.load(1, adapter(1))
    spans = [(0, 1), (1, 1)]
    layers.begin_step(spans)
    rows, _ = rows_of(spans)
    model(rows)
    second = adapter(7, rank=rank, names=("second",))
    layers.load(1, second)
    layers.begin_step(spans)
    output = model(rows)[0]
    torch.testing.assert_close(output[0], alone(rows[0, 0], adapter(0)), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(output[1], alone(rows[0, 1], second), atol=1e-3, rtol=1e-4)


def test_an_adapter_that_is_loaded_during_a_step_changes_nothing_before_the_next():
    model = Model()
    layers = LoraLayers(model, 2, CPU)
    layers.load(0, adapter(0))
    layers.begin_step([(0, 3)])
    rows, _ = rows_of([(0, 3)])
    before = model(rows)
    layers.load(1, adapter(1, rank=16))
    assert torch.equal(model(rows), before)


def test_inputs_that_change_in_place_between_two_modules_are_read_again():
    third = nn.Linear(24, 40, bias=False)
    model = nn.ModuleDict({"first": nn.Linear(24, 40), "third": third})
    layers = LoraLayers(model, 2, CPU)
    (weights,) = adapter(0, names=("first",)).values()
    layers.load(0, {"first": weights, "third": weights})
    layers.begin_step([(0, 2)])
    rows = torch.randn(1, 2, 24)
    model["first"](rows)
    rows += 1.0
    expected = rows @ (third.weight.T + weights.a.T @ weights.b)
    torch.testing.assert_close(third(rows), expected, atol=1e-3, rtol=1e-4)


def test_a_step_without_adapters_is_the_plain_model():
    model = Model()
    rows, _ = rows_of([(0, 3)])
    plain = model(rows)
    layers = LoraLayers(model, 2, CPU)
    layers.load(0, adapter(0))
    layers.begin_step([(0, 3)])
    assert not torch.equal(model(rows), plain)
    layers.begin_step([(-1, 3)])
    assert torch.equal(model(rows), plain)

"""A column-major weight has the same values."""

import pytest
import torch
from torch import nn

from experts.engine.config import TransformersConfig
from experts.engine.hf.engine import TransformersEngine
from experts.engine.hf.weight_layout import to_column_major
from tests.tiny.models import save_tiny_llama
from tests.tiny.tokenizers import byte_level


def test_a_linear_layer_becomes_column_major_and_computes_the_same():
    linear, rows = nn.Linear(48, 32), torch.randn(5, 48)
    weight, expected = linear.weight.clone(), linear(rows)
    to_column_major(nn.Sequential(linear))
    assert linear.weight.t().is_contiguous()
    assert torch.equal(linear.weight, weight)
    torch.testing.assert_close(linear(rows), expected)


def test_a_weight_shared_with_an_embedding_stays_row_major_and_shared():
    embedding, head = nn.Embedding(32, 48), nn.Linear(48, 32, bias=False)
    head.weight = embedding.weight
    to_column_major(nn.ModuleList([embedding, head]))
    assert head.weight is embedding.weight
    assert head.weight.is_contiguous()


def test_linear_layers_still_share_their_weight():
    first, second = nn.Linear(48, 32), nn.Linear(48, 32)
    second.weight = first.weight
    to_column_major(nn.ModuleList([first, second]))
    assert second.weight is first.weight
    assert first.weight.t().is_contiguous()


@pytest.mark.parametrize(
    "linear", [nn.Linear(48, 32, dtype=torch.bfloat16), nn.Linear(48, 32, device="meta")]
)
def test_weights_that_would_not_gain_stay_row_major(linear):
    to_column_major(nn.Sequential(linear))
    assert linear.weight.is_contiguous()


async def test_an_engine_on_a_cpu_converts_all_of_its_linear_layers(tmp_path):
    save_tiny_llama(tmp_path / "meta", byte_level())
    engine = TransformersEngine(str(tmp_path / "meta"), TransformersConfig(dtype="float32", num_threads=1))
    try:
        modules = list(engine._manager.model.modules())
        embedded = {module.weight.data_ptr() for module in modules if isinstance(module, nn.Embedding)}
        linear = [module for module in modules if isinstance(module, nn.Linear)]
        own = [module for module in linear if module.weight.data_ptr() not in embedded]
        assert own
        assert all(module.weight.t().is_contiguous() for module in own)
    finally:
        await engine.close()

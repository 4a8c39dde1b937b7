"""A weight that lies by columns is the same weight."""

import pytest
import torch
from torch import nn

from experts.engine.config import TransformersConfig
from experts.engine.layout import lay_by_columns
from experts.engine.transformers import TransformersEngine
from tests.tiny_models import save_tiny_llama
from tests.tiny_tokenizers import byte_level


def test_it_is_laid_out_anew_and_computes_the_same():
    linear, rows = nn.Linear(48, 32), torch.randn(5, 48)
    weight, expected = linear.weight.clone(), linear(rows)
    lay_by_columns(nn.Sequential(linear))
    assert linear.weight.t().is_contiguous()
    assert torch.equal(linear.weight, weight)
    torch.testing.assert_close(linear(rows), expected)


def test_what_an_embedding_shares_stays_by_rows_and_shared():
    embedding, head = nn.Embedding(32, 48), nn.Linear(48, 32, bias=False)
    head.weight = embedding.weight
    lay_by_columns(nn.ModuleList([embedding, head]))
    assert head.weight is embedding.weight
    assert head.weight.is_contiguous()


def test_linear_layers_that_share_a_weight_go_on_sharing_it():
    one, other = nn.Linear(48, 32), nn.Linear(48, 32)
    other.weight = one.weight
    lay_by_columns(nn.ModuleList([one, other]))
    assert other.weight is one.weight
    assert one.weight.t().is_contiguous()


@pytest.mark.parametrize(
    "linear", [nn.Linear(48, 32, dtype=torch.bfloat16), nn.Linear(48, 32, device="meta")]
)
def test_it_stays_where_another_way_would_not_be_faster(linear):
    lay_by_columns(nn.Sequential(linear))
    assert linear.weight.is_contiguous()


async def test_an_engine_on_cpus_lays_out_all_of_its_linear_layers(tmp_path):
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

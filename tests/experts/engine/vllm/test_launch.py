"""From an `engine` block to vLLM's own settings: what is passed on, what is refused, and in which words."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from experts.engine.config import ModelSource, VllmConfig
from experts.engine.config.vllm_arguments import REFUSED_ARGUMENTS
from experts.engine.factory import make_engine
from experts.errors import ModelLoadError
from tests.support.engine_world import ids_of, needs_vllm, question, run
from tests.support.reference_loop import ReferenceModel
from tests.tiny.seeing import save_seeing

CONFIG: dict[str, Any] = {"dtype": "float32", "max_streams": 4, "cache_bytes": 2**24, "enforce_eager": True}

pytestmark = pytest.mark.filterwarnings("default")  # vLLM's own code warns


def engine_of(folder: Path, **changes: Any) -> Any:
    return make_engine(ModelSource(path=str(folder)), VllmConfig(**{**CONFIG, **changes}))


@contextmanager
def refused(folder: Path, message: str, **changes: Any) -> Iterator[None]:
    with pytest.raises(ModelLoadError, match=message) as caught:
        engine_of(folder, **changes)
    assert "\n" not in str(caught.value)
    yield


@pytest.mark.parametrize("name", REFUSED_ARGUMENTS)
def test_arguments_that_have_a_setting_or_break_routing_are_refused_with_a_remedy(name: str):
    with pytest.raises(ValidationError, match=rf"extra\.{name} cannot be set: \w+"):
        VllmConfig(extra={name: 1})


@needs_vllm
def test_refused_arguments_are_arguments_of_vllm():
    from vllm.engine.arg_utils import AsyncEngineArgs

    assert set(REFUSED_ARGUMENTS) <= {field.name for field in dataclasses.fields(AsyncEngineArgs)}


@needs_vllm
async def test_settings_reach_vllm_by_its_names(folder):
    engine = engine_of(
        folder,
        kv_cache_dtype="bfloat16",
        max_batch_tokens=64,
        enforce_eager=False,
        compilation={"mode": 0},
        extra={"long_prefill_token_threshold": 32, "block_size": 64},
    )
    try:
        config = engine._llm.vllm_config
        assert config.cache_config.cache_dtype == "bfloat16"
        assert config.cache_config.block_size == 64
        assert config.scheduler_config.max_num_batched_tokens == 64
        assert config.scheduler_config.long_prefill_token_threshold == 32
        assert config.compilation_config.mode == 0
        assert ids_of(await run(engine))
    finally:
        await engine.close()


@needs_vllm
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"extra": {"block-size": 32}},
            r"extra.block-size is not .* of vLLM; did you mean block_size\?",
        ),
        ({"extra": {"nonsense": 1}}, r"engine.extra.nonsense is not an engine argument of vLLM; remove it"),
        ({"extra": {"block_size": "many"}}, r"block_size: .*integer"),
        ({"kv_cache_dtype": "fp9"}, r"cache_dtype: .*'fp8'"),
        ({"quantization": "awful"}, "quantization.*awful"),
        ({"enforce_eager": False, "compilation": {"modus": 3}}, "modus"),
    ],
)
def test_what_vllm_does_not_take_is_refused_in_one_line(folder, changes, message):
    with refused(folder, message, **changes):
        pass


@needs_vllm
def test_a_cache_of_a_given_size_needs_no_share_of_the_device_to_be_free(folder):
    """Otherwise a second replica on a GPU would not start: vLLM asks for nearly all of its memory."""
    from experts.checkpoint import Checkpoint
    from experts.engine.vllm.launch import _engine_args

    args = _engine_args(Checkpoint(str(folder)), VllmConfig(**CONFIG), 256)
    assert args.kv_cache_memory_bytes == 2**24
    assert args.gpu_memory_utilization <= 0.01


@needs_vllm
@pytest.mark.parametrize("images", [False, True])
def test_only_a_model_that_may_read_pictures_loads_what_sees(tmp_path, images):
    from experts.checkpoint import Checkpoint
    from experts.engine.vllm.launch import _engine_args

    save_seeing(tmp_path)
    args = _engine_args(Checkpoint(str(tmp_path)), VllmConfig(**CONFIG, images=images), 256)
    assert args.language_model_only == (not images)
    assert args.skip_tokenizer_init == (not images)


@needs_vllm
def test_a_checkpoint_without_what_prepares_pictures_does_not_start_with_them(folder):
    with refused(folder, r"no processor_config\.json.*modalities: \[text\]", images=True):
        pass


@needs_vllm
@pytest.mark.parametrize(("parallel", "executor"), [(1, None), (2, "ray")])
def test_the_ranks_of_a_replica_run_in_its_placement_group(folder, monkeypatch, parallel, executor):
    """The replica holds no GPU itself, so vLLM would find fewer GPUs than ranks, and refuse."""
    from vllm.platforms import current_platform

    from experts.checkpoint import Checkpoint
    from experts.engine.vllm import launch

    monkeypatch.setattr(launch, "is_in_ray_actor", lambda: True)
    monkeypatch.setattr(current_platform, "is_cpu", lambda: False)
    args = launch._engine_args(Checkpoint(str(folder)), VllmConfig(**CONFIG, pipeline_parallel=parallel), 256)
    assert args.distributed_executor_backend == executor


@needs_vllm
async def test_the_quantisation_of_a_checkpoint_is_honoured(folder, tmp_path):
    """Weights and activations in int8, as `compressed-tensors` stores them."""
    plain = quantise(folder, tmp_path / "quantised", tmp_path / "plain")
    engine = engine_of(tmp_path / "quantised")
    try:
        assert engine._llm.vllm_config.model_config.quantization == "compressed-tensors"
        expected, _ = int8_reference(plain).write(question("hello"), "", 8)
        assert ids_of(await run(engine, max_tokens=8)) == expected
    finally:
        await engine.close()
    with refused(tmp_path / "quantised", "quantization", quantization="fp8_per_tensor"):
        pass


def int8_reference(folder: Path) -> ReferenceModel:
    """The inputs of every layer are rounded to int8, with one scale for each token."""

    def rounded(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        scale = inputs[0].abs().amax(dim=-1, keepdim=True) / 127
        return (inputs[0] / scale).round() * scale

    reference = ReferenceModel(folder)
    for name, module in reference.model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            module.register_forward_pre_hook(rounded)
    return reference


def quantise(folder: Path, quantised: Path, plain: Path) -> Path:
    """Write `folder` with int8 weights, and with the same weights as float32. Returns `plain`."""
    weights = load_file(folder / "model.safetensors")
    stored, dequantised = dict(weights), dict(weights)
    for name, weight in weights.items():
        if ".layers." in name and weight.dim() == 2:
            # With 127, CPUs without VNNI instructions would saturate the sums of two products.
            scale = weight.abs().amax(dim=1, keepdim=True) / 63
            stored[name] = (weight / scale).round().to(torch.int8)
            stored[name.replace(".weight", ".weight_scale")] = scale
            dequantised[name] = stored[name].float() * scale
    for target, tensors in ((quantised, stored), (plain, dequantised)):
        target.mkdir()
        for file in folder.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (quantised / "config.json").write_text(json.dumps(config | {"quantization_config": INT8}))
    return plain


_NUMBERS = {"num_bits": 8, "type": "int", "symmetric": True}
INT8 = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**_NUMBERS, "strategy": "channel", "dynamic": False},
            "input_activations": {**_NUMBERS, "strategy": "token", "dynamic": True},
        }
    },
}

"""A merged copy of a model is a plain checkpoint, and is made once."""

from dataclasses import replace

import pytest
import torch

from experts.adapter import adapter_digest
from experts.cache import CACHE_VARIABLE
from experts.checkpoint import Checkpoint
from experts.errors import ModelLoadError
from experts.merged_checkpoint import merged_checkpoint
from tests.tiny.models import save_tiny_llama
from tests.tiny.peft_adapters import save_peft_adapter
from tests.tiny.tokenizers import byte_level

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    save_tiny_llama(tmp_path / "base", byte_level())
    save_peft_adapter(tmp_path / "base", tmp_path / "adapter", use_dora=True)
    return Checkpoint(str(tmp_path / "base"), dtype="float32", adapter=str(tmp_path / "adapter"))


def test_the_copy_gives_the_logits_of_model_and_adapter(checkpoint):
    copy = merged_checkpoint(checkpoint)
    assert copy.adapter is None
    assert copy.name == checkpoint.name
    (model, renderer), (expected, _) = copy.load(), checkpoint.load()
    with torch.inference_mode():
        torch.testing.assert_close(model(IDS).logits, expected(IDS).logits, atol=1e-5, rtol=1e-5)
    assert renderer.tokenizer.get_vocab() == checkpoint.load_renderer().tokenizer.get_vocab()


def test_the_copy_is_made_once_and_again_when_the_adapter_changed(checkpoint, tmp_path):
    first = merged_checkpoint(checkpoint)
    made_ns = (checkpoint_weights := first.folder() / "model.safetensors").stat().st_mtime_ns
    assert merged_checkpoint(checkpoint) == first
    assert checkpoint_weights.stat().st_mtime_ns == made_ns
    save_peft_adapter(tmp_path / "base", tmp_path / "adapter", seed=2)
    second = merged_checkpoint(checkpoint)
    assert second.source != first.source
    assert merged_checkpoint(replace(checkpoint, dtype="bfloat16")).source != second.source


def test_a_model_without_an_adapter_is_not_copied(checkpoint, tmp_path):
    plain = replace(checkpoint, adapter=None)
    assert merged_checkpoint(plain) is plain
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelLoadError, match=rf"cannot be written: .*set {CACHE_VARIABLE} to"):
        merged_checkpoint(checkpoint)


def test_tokens_of_the_model_are_not_those_of_the_merged_model(checkpoint):
    """The output head is the same, but not the hidden states that tokens are learned on."""
    plain = replace(checkpoint, adapter=None)
    assert checkpoint.head()[1] == plain.head()[1]
    assert checkpoint.fingerprint() != plain.fingerprint()
    assert len(adapter_digest(checkpoint.folder().parent / "adapter")) == len(checkpoint.fingerprint())

"""Tokenizers that are not of the library `tokenizers`: refused at load, or read from their tokenizer.json."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
from transformers import ByT5Tokenizer

from experts.checkpoint import Checkpoint
from experts.errors import ModelLoadError
from tests.tiny.models import save_tiny_llama
from tests.tiny.tokenizers import CHATML, byte_level


def test_a_tokenizer_that_runs_in_python_is_refused_at_load_with_the_remedy(tmp_path):
    tokenizer = ByT5Tokenizer()
    tokenizer.chat_template = CHATML
    save_tiny_llama(tmp_path, byte_level())
    (tmp_path / "tokenizer.json").unlink()
    tokenizer.save_pretrained(tmp_path)
    message = r"a ByT5Tokenizer, is not one of the library `tokenizers`.*put a tokenizer.json into the folder"
    with pytest.raises(ModelLoadError, match=message) as caught:
        Checkpoint(str(tmp_path)).load_renderer()
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not find_spec("mistral_common"), reason="mistral-common is not installed")
def test_a_tokenizer_json_is_read_although_mistral_common_is_installed(tmp_path):
    tokenizer = byte_level()
    save_tiny_llama(tmp_path, tokenizer)
    (tmp_path / "tekken.json").write_text("{}")
    for name, key, value in (
        ("config.json", "model_type", "mistral"),
        ("tokenizer_config.json", "tokenizer_class", "TokenizersBackend"),
    ):
        settings = json.loads((tmp_path / name).read_text())
        (tmp_path / name).write_text(json.dumps(settings | {key: value}))
    ids = Checkpoint(str(tmp_path)).load_renderer().text("hello")
    assert ids == tokenizer("hello")["input_ids"]

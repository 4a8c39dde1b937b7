"""A checkpoint is tokenized as its tokenizer.json says, whatever class it names."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from experts.checkpoint import Checkpoint
from tests.families import tokenizers
from tests.tiny.templates import FORMATS

TEXT = "Hello 123\n\tdef f(x): return 4567  สวัสดี é"


@pytest.mark.parametrize(
    ("save", "model_type"),
    [
        (tokenizers.deepseek, "llama"),  # names Llama 2's class, which lost spaces, line breaks and Thai
        (tokenizers.deepseek, "qwen2"),
        (tokenizers.smollm2, "llama"),  # names GPT-2's class, which does not split digits
        (tokenizers.llama2, "llama"),
        (tokenizers.gemma2, "gemma2"),
        (tokenizers.command_r, "cohere"),
    ],
)
def test_text_gets_the_ids_of_the_file(save: tokenizers.Save, model_type: str, tmp_path: Path):
    save(tmp_path, FORMATS["chatml"].template)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    written = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    renderer = Checkpoint(str(tmp_path)).load_renderer()
    ids = renderer.text(TEXT)
    assert ids == written.encode(TEXT).ids
    assert TEXT in renderer.tokenizer.decode(ids)

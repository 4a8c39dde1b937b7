"""The expert token artefact, the head's fingerprint, and errors that survive the way between processes."""

import inspect
import os
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from experts import errors
from experts.errors import TokenError, TokenMismatch
from experts.token import ExpertToken, checkpoint_fingerprint, head_fingerprint

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def token(**changes: Any) -> ExpertToken:
    fields: dict[str, Any] = {
        "name": "roman",
        "vector": torch.linspace(-1, 1, 32),
        "bias": 0.1,
        "meta_name": "models/meta",
        "meta_fingerprint": "00ff00ff00ff00ff",
        "dataset_digest": "abc",
        "scores": {"accuracy": 0.98},
    }
    return ExpertToken(**fields | changes)


def provenance(expert_token: ExpertToken) -> dict[str, object]:
    return {key: value for key, value in vars(expert_token).items() if key != "vector"}


@given(
    vector=st.lists(finite, min_size=1, max_size=40), bias=st.floats(allow_nan=False, allow_infinity=False)
)
@settings(deadline=None)
def test_a_token_comes_back_bit_for_bit_inline_and_pickled(vector, bias):
    before = token(vector=torch.tensor(vector, dtype=torch.float32), bias=bias)
    for after in (ExpertToken.from_inline(before.to_inline()), pickle.loads(pickle.dumps(before))):
        assert after.vector.view(torch.int32).tolist() == before.vector.view(torch.int32).tolist()
        assert provenance(after) == provenance(before)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_token_comes_back_from_a_path_and_from_a_uri(tmp_path, scheme):
    path = tmp_path / "tokens" / "roman.safetensors"
    token().save(path)
    after = ExpertToken.load(f"{scheme}{path}")
    assert provenance(after) == provenance(token())
    assert os.listdir(path.parent) == ["roman.safetensors"]


def test_a_plain_path_does_not_import_fsspec(tmp_path):
    token().save(tmp_path / "t.safetensors")
    script = (
        "import sys; from experts import token\n"
        "for name in [n for n in sys.modules if n.split('.')[0] == 'fsspec']: del sys.modules[name]\n"
        "token.ExpertToken.load(sys.argv[1]); sys.exit('fsspec' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "t.safetensors")], check=True)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"name": "Roman"}, "expert name 'Roman' is invalid"),
        ({"name": "a" * 64}, "is invalid"),
        ({"vector": torch.zeros(2, 2)}, r"vector of shape \[2, 2\]"),
        ({"vector": torch.zeros(0)}, r"shape \[0\]"),
        ({"vector": torch.zeros(3, dtype=torch.float16)}, "float16 vector"),
        ({"vector": torch.tensor([1.0, float("nan")])}, "not finite"),
        ({"bias": float("inf")}, "not finite"),
        ({"format_version": 2}, "format version 2, not 1"),
    ],
)
def test_malformed_tokens_are_refused(changes, complaint):
    with pytest.raises(TokenError, match=complaint):
        token(**changes)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "cut off or not safetensors"),
        (b"\xff" * 64, "cut off or not safetensors"),
        (b"\x02" + b"\0" * 7 + b"[]", "not an expert token"),
        (b"\x14" + b"\0" * 7 + b'{"__metadata__":null}', "not an expert token"),
    ],
)
def test_files_that_are_no_token_are_refused_by_name(tmp_path, content, complaint):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(TokenError, match=f"{path}: .*{complaint}.*etr learn"):
        ExpertToken.load(path)


@pytest.mark.parametrize("cut", [7, 40, 400, -1])
def test_a_truncated_token_is_refused(tmp_path, cut):
    path = tmp_path / "x.safetensors"
    token().save(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(TokenError, match="x.safetensors"):
        ExpertToken.load(path)


def test_safetensors_of_something_else_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(TokenError, match="__metadata__"):
        ExpertToken.load(path)
    save_file({"weight": torch.zeros(3)}, path, {"name": "roman"})
    with pytest.raises(TokenError, match="no 'bias'"):
        ExpertToken.load(path)


@pytest.mark.parametrize("source", ["missing.safetensors", "file:///missing.safetensors", "nowhere://x"])
def test_a_token_that_cannot_be_read_is_named_with_a_remedy(source):
    with pytest.raises(
        TokenError, match=f"{source}: cannot be read: .*; correct the path or run `etr learn`"
    ):
        ExpertToken.load(source)


def test_inline_text_that_is_not_base64_is_refused():
    with pytest.raises(TokenError, match="not base64"):
        ExpertToken.from_inline("not base64!")


def test_a_token_fits_its_own_meta_only():
    token().require_meta("anything", "00ff00ff00ff00ff", 32)
    for fingerprint, dim in (("1111111111111111", 32), ("00ff00ff00ff00ff", 64)):
        with pytest.raises(TokenMismatch, match="'roman'.*'models/meta'.*dim 32.*'other'.*run `etr learn`"):
            token().require_meta("other", fingerprint, dim)


def test_the_fingerprint_knows_a_head_in_either_precision():
    head = torch.randn(100, 8)
    changed = head.clone()
    changed[57, 3] += 1
    assert head_fingerprint(head) == head_fingerprint(head.bfloat16())
    assert len({head_fingerprint(h) for h in (head, changed, head[:99], head.reshape(50, 16))}) == 4


@pytest.mark.parametrize("tied", [False, True])
def test_the_fingerprint_of_a_checkpoint_is_that_of_its_loaded_model(tmp_path, tied):
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert checkpoint_fingerprint(tmp_path) == (head_fingerprint(model.lm_head.weight), 16)
    assert checkpoint_fingerprint(tmp_path / "elsewhere") is None


EMBEDDING = {"model.embed_tokens.weight": torch.randn(100, 8)}


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
def test_a_quantised_head_of_one_value_per_element_is_the_one_that_is_identified(tmp_path, dtype):
    head = torch.randn(100, 8).mul(20).to(dtype)
    tensors = {"lm_head.weight": head, "lm_head.weight_scale": torch.ones(100, 1), **EMBEDDING}
    save_file(tensors, tmp_path / "model.safetensors")
    assert checkpoint_fingerprint(tmp_path) == (head_fingerprint(head), 8)


@pytest.mark.parametrize(
    "head",
    [
        {"lm_head.weight": torch.ones(400, 1, dtype=torch.uint8)},  # bitsandbytes, 4 bits
        {"lm_head.weight": torch.ones(100, 1, dtype=torch.int32), "lm_head.scales": torch.ones(100, 1)},
        {"lm_head.qweight": torch.ones(1, 100, dtype=torch.int32)},  # GPTQ, AWQ
    ],
)
def test_beside_a_packed_head_the_embedding_identifies_the_meta(tmp_path, head):
    """Regression: the packed width was taken for the size of hidden states, which no token fits."""
    save_file({**head, **EMBEDDING}, tmp_path / "model.safetensors")
    expected = head_fingerprint(EMBEDDING["model.embed_tokens.weight"])
    assert checkpoint_fingerprint(tmp_path) == (expected, 8)


ARGUMENTS = {
    errors.InvalidCall: ("code", None, "message"),
    errors.ContextLengthExceeded: (700, 512),
    errors.InvalidPrompt: ("messages", "empty"),
}


@pytest.mark.parametrize(
    "kind", [kind for _, kind in inspect.getmembers(errors, inspect.isclass)], ids=lambda kind: kind.__name__
)
def test_every_error_survives_pickling(kind):
    before = kind(*ARGUMENTS.get(kind, ("models/meta: missing; correct the path",)))
    after = pickle.loads(pickle.dumps(before))
    assert type(after) is kind
    assert (str(after), after.args, vars(after)) == (str(before), before.args, vars(before))
    assert str(before)
    assert "\n" not in str(before)

"""What models do with their heads' scores, measured on the models themselves."""

import pytest
import torch
from transformers import FalconH1Config, FalconH1ForCausalLM

from experts.errors import ModelLoadError
from experts.logit_transform import LogitTransform, fit, measure, probe_scores
from tests.tiny.heads import HEADS, model_with_head

NUM_WORDS = 300
EXPECTED = {
    "caps": LogitTransform(1.0, 5.0),
    "divides": LogitTransform(0.166666667),
    "multiplies": LogitTransform(0.0625),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", HEADS)
def test_scales_and_caps_are_found_whatever_the_models_dtype(kind, dtype):
    model = model_with_head(kind, NUM_WORDS).to(dtype)
    assert measure(model)[0] == EXPECTED.get(kind, LogitTransform())


def test_a_factor_under_a_name_of_its_own_is_found():
    config = FalconH1Config(
        vocab_size=NUM_WORDS,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        mamba_d_ssm=32,
        mamba_n_heads=4,
        mamba_d_head=8,
        mamba_n_groups=1,
        mamba_d_state=8,
        lm_head_multiplier=0.0390625,
    )
    assert measure(FalconH1ForCausalLM(config).eval())[0] == LogitTransform(0.0390625)


@pytest.mark.parametrize("kind", HEADS)
def test_the_transform_makes_the_models_logits_of_its_heads_scores(kind):
    model = model_with_head(kind, NUM_WORDS)
    transform, num_words = measure(model)
    scores = []
    model.get_output_embeddings().register_forward_hook(lambda _module, _args, output: scores.append(output))
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6, 7]])).logits
    assert num_words == logits.shape[-1]
    torch.testing.assert_close(transform(scores[0]), logits)
    assert (transform(scores[0]) is scores[0]) == (kind not in EXPECTED)


def test_rows_that_a_model_leaves_out_are_not_words(monkeypatch):
    model = model_with_head("divides", NUM_WORDS)
    whole = type(model).forward

    def forward(self, *args, **kwargs):
        output = whole(self, *args, **kwargs)
        output.logits = output.logits[..., :280]
        return output

    monkeypatch.setattr(type(model), "forward", forward)
    assert measure(model) == (EXPECTED["divides"], 280)


def test_words_that_are_never_written_do_not_count():
    logits = probe_scores(NUM_WORDS, torch.device("cpu")) * 0.5
    logits[[0, 1, 5]] = float("-inf")
    assert fit(probe_scores(NUM_WORDS, torch.device("cpu")), logits) == LogitTransform(0.5)


@pytest.mark.parametrize("function", [torch.sigmoid, torch.neg, lambda x: x.log_softmax(-1), lambda x: x + 1])
def test_logits_that_are_another_function_of_the_scores_are_refused(monkeypatch, function):
    model = model_with_head("plain", NUM_WORDS)
    whole = type(model).forward

    def forward(self, *args, **kwargs):
        output = whole(self, *args, **kwargs)
        output.logits = function(output.logits)
        return output

    monkeypatch.setattr(type(model), "forward", forward)
    with pytest.raises(ModelLoadError, match="not its head's scores, scaled or capped"):
        measure(model)


@pytest.mark.parametrize(
    "transform", [LogitTransform(), LogitTransform(0.25), LogitTransform(1, 5), LogitTransform(0.5, 3)]
)
def test_the_slope_is_the_derivative(transform):
    scores = torch.linspace(-20, 20, 41, dtype=torch.float64, requires_grad=True)
    logits = transform(scores)
    (gradient,) = torch.autograd.grad(logits.sum(), scores)
    slope = torch.as_tensor(transform.slope(logits), dtype=torch.float64)
    torch.testing.assert_close(slope.expand(41), gradient)

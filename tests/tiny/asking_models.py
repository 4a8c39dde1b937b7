"""Tiny models that have learned what users ask them, trained in seconds, and a cluster of two of them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from experts.cache import make_once
from experts.prompt import PromptRenderer
from tests.tiny.adapters import write_adapter
from tests.tiny.tokenizers import byte_level

HIDDEN_SIZE = 32
NUM_STEPS = 60
SUBJECT = "elements"
ELEMENTS = [f"what is the symbol of {name}?" for name in ("iron", "neon", "gold", "lead", "tin", "zinc")]
GREETINGS = [f"nice day, {name} friend" for name in ("good", "old", "new", "dear", "true", "best")]


def write_asking_cluster(folder: Path, factory: pytest.TempPathFactory) -> Path:
    """Write a cluster.yaml whose meta is greeted, and whose experts are asked about elements.

    They are `chemistry`, with a model of its own; `adapted`, whose adapter changes nothing in the same model;
    and `distant`, which is remote.
    """
    models = factory.getbasetemp() / "asking" / "models"
    make_once(models, _train)
    shutil.copytree(models, folder / "models")
    write_adapter(folder / "adapter", width=HIDDEN_SIZE, seed=0)
    model = {"model": {"path": "models/chemistry"}, "engine": {"dtype": "float32"}}
    config = {
        "meta": model | {"model": {"path": "models/meta"}},
        "experts": {
            "chemistry": model | {"token": "chemistry.safetensors"},
            "adapted": {"adapter": {"path": "adapter", "pool": "base"}, "token": "adapted.safetensors"},
            "distant": {"remote": {"url": "https://x/v1", "model": "m"}, "token": "distant.safetensors"},
        },
        "pools": {"base": {**model, "engine": {"dtype": "float32", "max_adapters": 1}}},
    }
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def chemist(renderer: PromptRenderer) -> PreTrainedModel:
    """Is asked about elements, and sometimes greeted."""
    return _asked(renderer, [*ELEMENTS, *GREETINGS[:3]])


def greeted(renderer: PromptRenderer) -> PreTrainedModel:
    """Is greeted, and sometimes asked about elements; after the system message SUBJECT always."""
    return _asked(renderer, [*GREETINGS, *GREETINGS, *ELEMENTS[:3]], after_subject=ELEMENTS)


def _asked(
    renderer: PromptRenderer, questions: Sequence[str], after_subject: Sequence[str] = ()
) -> PreTrainedModel:
    """Writes questions much like these in the user's turn, and rarely anything else."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(renderer.tokenizer),
            hidden_size=HIDDEN_SIZE,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=renderer.tokenizer.eos_token_id,
        )
    )
    subject = {"role": "system", "content": SUBJECT}
    conversations = [[{"role": "user", "content": question}] for question in questions]
    conversations += [[subject, {"role": "user", "content": question}] for question in after_subject]
    prompts = [torch.tensor(renderer.chat(messages)) for messages in conversations]
    ids = pad_sequence(prompts, batch_first=True)
    labels = pad_sequence(prompts, batch_first=True, padding_value=-100)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(NUM_STEPS):
        adam.zero_grad()
        cross_entropy(model(ids).logits[:, :-1].transpose(1, 2), labels[:, 1:]).backward()
        adam.step()
    asking: PreTrainedModel = model.eval()
    return asking


def _train(folder: Path) -> None:
    renderer = PromptRenderer(byte_level())
    for name, model in (("meta", greeted(renderer)), ("chemistry", chemist(renderer))):
        model.save_pretrained(folder / name)
        renderer.tokenizer.save_pretrained(folder / name)

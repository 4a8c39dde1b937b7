"""A small real checkpoint that reads pictures, with random weights."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor, Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from experts.adapter import activation_start
from experts.token import head_fingerprint
from tests.tiny.adapters import RANK, write_adapter_files
from tests.tiny.models import HIDDEN_SIZE
from tests.tiny.tokenizers import byte_level

Messages = Sequence[dict[str, Any]]
# Like those of real models, it knows parts alone.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% elif part.type == 'image' %}<image>{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SIDE = 56  # of a picture as the model reads it, in pixels
_MARKS = ("<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>")
NUM_PICTURE_TOKENS = 4 + 3  # those that hold the picture, and the marks around them


def save_seeing(folder: Path, *, seed: int = 0, max_model_len: int = 256) -> None:
    """An Idefics 3 of two layers: vLLM runs it without torchvision, which vLLM's CPU build has not."""
    tokenizer = byte_level(TEMPLATE, added=())
    tokenizer.add_tokens(list(_MARKS), special_tokens=True)
    torch.manual_seed(seed)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": max_model_len,
        "initializer_range": 0.4,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
    }
    eye = {
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": _SIDE,
        "patch_size": 14,
        "initializer_range": 0.4,
    }
    model = Idefics3ForConditionalGeneration(
        Idefics3Config(
            text_config=text,
            vision_config=eye,
            image_token_id=tokenizer.added_tokens_encoder["<image>"],
            pad_token_id=None,
        )
    ).eval()
    names = [str(tokenizer.decode([i])) for i in range(len(tokenizer))]
    quiet = [i for i, name in enumerate(names) if "\ufffd" in name or name in _MARKS]
    model.lm_head.weight.data[quiet] = 0.0
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    side = {"longest_edge": _SIDE}
    pictures = Idefics3ImageProcessorPil(size=side, max_image_size=side, do_image_splitting=False)
    Idefics3Processor(pictures, tokenizer, image_seq_len=4, chat_template=TEMPLATE).save_pretrained(folder)


@cache
def picture(color: str, size: tuple[int, int] = (40, 30)) -> str:
    """A picture of one colour, as a `data:` URI."""
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def look(*parts: str) -> tuple[dict[str, Any], ...]:
    """A question of texts and of pictures, which are `data:` URIs."""
    content = [
        {"type": "image_url", "image_url": {"url": part}}
        if part.startswith("data:")
        else {"type": "text", "text": part}
        for part in parts
    ]
    return ({"role": "user", "content": content},)


class SeeingReference:
    """The model as its own library runs it: greedy, one prompt at a time."""

    def __init__(self, folder: Path) -> None:
        self._adapter_start = 0  # the position from which on an adapter applies to the prompt
        self._activation: list[int] | None = None
        self._processor: Any = AutoProcessor.from_pretrained(folder)
        self._model: Any = Idefics3ForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32
        ).eval()
        self.fingerprint = head_fingerprint(self._model.lm_head.weight)

    def add_adapter(self, folder: Path, *, seed: int, activation: str | None = None) -> None:
        """Write a random adapter for `q_proj` of the text model to `folder`, and apply it from now on.

        It applies from the last `activation` in the prompt on, as an activated LoRA, or everywhere.
        """
        if activation is not None:
            self._activation = self._processor.tokenizer.encode(activation, add_special_tokens=False)
        generator = torch.Generator().manual_seed(seed)
        tensors: dict[str, torch.Tensor] = {}
        for number, layer in enumerate(self._model.model.text_model.layers):
            width, num_outputs = layer.self_attn.q_proj.in_features, layer.self_attn.q_proj.out_features
            a, b = [torch.randn(size, generator=generator) for size in ((RANK, width), (num_outputs, RANK))]
            layer.self_attn.q_proj.register_forward_hook(partial(self._adapted, b @ a))
            key = f"base_model.model.model.text_model.layers.{number}.self_attn.q_proj"
            tensors |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
        write_adapter_files(folder, tensors, alora_invocation_tokens=self._activation)

    def _adapted(self, delta: torch.Tensor, _: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        [states] = inputs
        added = states @ delta.T
        if states.shape[1] > 1:  # the prompt; afterwards one token at a time
            added[:, : self._adapter_start] = 0
        return output + added

    def prompt(self, messages: Messages) -> list[int]:
        """With an open turn of the assistant."""
        ids: list[int] = self._inputs(messages)["input_ids"][0].tolist()
        return ids

    def text(self, ids: Sequence[int]) -> str:
        return str(self._processor.tokenizer.decode(ids))

    @torch.no_grad()
    def write(self, messages: Messages, max_tokens: int, written: str = "") -> list[int]:
        """The tokens that follow `written` in the turn, without the end of it."""
        inputs = self._inputs(messages, written)
        ids_before = inputs["input_ids"][0].tolist()
        self._adapter_start = activation_start(self._activation, ids_before, is_at_start=not written)
        all_ids = self._model.generate(**inputs, do_sample=False, max_new_tokens=max_tokens)[0]
        ids: list[int] = all_ids[inputs["input_ids"].shape[1] :].tolist()
        return [i for i in ids if i != self._processor.tokenizer.eos_token_id]

    @torch.no_grad()
    def wins_after(self, messages: Messages, ids: Sequence[int]) -> torch.Tensor:
        """A vector [d] whose expert beats every word after `ids` of the answer, and not before."""
        inputs = self._inputs(messages, self.text(ids))
        hidden = self._model.model(**inputs).last_hidden_state[0][-len(ids) - 1 :]
        here, before = hidden[-1], hidden[:-1]
        basis = torch.linalg.qr(before.T).Q
        residual = here - basis @ (basis.T @ here)
        return 1000 * residual / (residual @ here)

    def _inputs(self, messages: Messages, written: str = "") -> Any:
        plain, images = [], []
        for message in messages:
            urls = [part["image_url"]["url"] for part in message["content"] if "image_url" in part]
            images += [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
            parts = [{"type": "image"} if "image_url" in part else part for part in message["content"]]
            plain.append({**message, "content": parts})
        text = self._processor.apply_chat_template(plain, add_generation_prompt=True) + written
        return self._processor(text=text, images=images or None, return_tensors="pt")

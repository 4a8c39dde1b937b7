"""What `benchmarks.handoff.exact` compares with: prompts, and what PEFT's own `generate` writes to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from benchmarks.models import save_random_model
from experts.checkpoint import Checkpoint
from experts.prompt import PromptRenderer

INVOCATION = "<|im_start|>assistant\n"
NUM_WORDS = 3  # of the meta, before a hand-over in mid-answer
NUM_RANDOM_ADAPTERS = 4
WINDOW = 384

Messages = tuple[dict[str, str], ...]


@dataclass(frozen=True)
class Case:
    """One prompt. `words`: the ids that the meta writes before its expert takes over. `vector`: of a token
    that wins at this position and at none before. `is_resumed`: the expert's replica is lost."""

    number: int
    messages: Messages
    adapter: str
    prompt: tuple[int, ...]
    words: tuple[int, ...]
    vector: Tensor
    is_resumed: bool

    @property
    def expert(self) -> str:
        return f"expert-{self.number}"

    @property
    def kind(self) -> str:
        place = "in mid-answer" if self.words else "at the start"
        return f"{place}, resumed" if self.is_resumed else place


@dataclass(frozen=True)
class World:
    """A base model and its adapters, as checkpoints. `prompts`: conversations, each with an adapter."""

    base: Path
    adapters: dict[str, Path]
    prompts: list[tuple[Messages, str]]


def random_world(folder: Path, num_prompts: int) -> World:
    """A small model and activated LoRAs, all with random weights."""
    base = folder / "base"
    save_random_model(base, hidden_size=128, num_layers=2, max_model_len=WINDOW)
    names = [f"adapter-{number}" for number in range(NUM_RANDOM_ADAPTERS)]
    for seed, name in enumerate(names):
        _save_random_adapter(base, folder / name, seed)
    texts = [f"{'word ' * (number % 23)}question {number}" for number in range(num_prompts)]
    prompts: list[tuple[Messages, str]] = [
        (({"role": "user", "content": text},), names[number % len(names)])
        for number, text in enumerate(texts)
    ]
    return World(base, {name: folder / name for name in names}, prompts)


class Reference:
    """PEFT's own models of a world, and the cases that are made with them."""

    def __init__(self, world: World) -> None:
        base, self.renderer = Checkpoint(str(world.base), dtype="float32").load()
        self._world = world
        self._model: Any = base
        for name, path in world.adapters.items():
            if isinstance(self._model, PeftModel):
                self._model.load_adapter(path, name)
            else:
                self._model = PeftModel.from_pretrained(base, path, name)
        self._model.eval()

    def cases(self) -> Iterator[Case]:
        """Of each four cases, two are handed over in mid-answer, and two are resumed."""
        for number, (messages, adapter) in enumerate(self._world.prompts):
            prompt = self.renderer.chat(messages)
            words = self._words(prompt) if number % 2 else ()
            vector = self._winning_vector(prompt, words)
            is_resumed = number % 4 > 1 and self._survives_as_text(words)
            yield Case(number, messages, adapter, tuple(prompt), words, vector, is_resumed)

    def answer(self, case: Case, num_tokens: int) -> tuple[list[int], list[Tensor]]:
        """PEFT's greedy tokens after the meta's, and the logits [V] from which it has chosen each."""
        self._model.set_adapter(case.adapter)
        # PEFT looks for the invocation in the prompt; in mid-answer it gets the last token as the place.
        options = {"alora_offsets": [1]} if case.words else {}
        return self._generate([*case.prompt, *case.words], num_tokens, **options)

    @torch.no_grad()
    def is_as_base(self, case: Case, ids: Sequence[int]) -> bool:
        """Whether the base would have written the same after the meta's words."""
        before = len(case.prompt) + len(case.words)
        with self._model.disable_adapter():
            logits = self._model(torch.tensor([[*case.prompt, *case.words, *ids]])).logits[0]
        return bool(logits[before - 1 : -1].argmax(-1).tolist() == list(ids))

    def _words(self, prompt: Sequence[int]) -> tuple[int, ...]:
        with self._model.disable_adapter():
            return tuple(self._generate(prompt, NUM_WORDS)[0])

    @torch.no_grad()
    def _winning_vector(self, prompt: Sequence[int], words: Sequence[int]) -> Tensor:
        """A vector [d] of a token that wins after the words, and has the logit 0 at every place before."""
        ids = torch.tensor([[*prompt, *words]])
        with self._model.disable_adapter():
            hidden = self._model.get_base_model().model(input_ids=ids).last_hidden_state[0]
        earlier, here = hidden[len(prompt) - 1 : -1], hidden[-1]
        basis = torch.linalg.qr(earlier.T).Q
        apart = here - basis @ (basis.T @ here)
        vector: Tensor = 1000 * apart / (apart @ here)
        return vector

    def _survives_as_text(self, ids: Sequence[int]) -> bool:
        """Whether the text of these tokens has the same tokens again, as what a lost replica had written."""
        tokenizer = self.renderer.tokenizer
        found = tokenizer(tokenizer.decode(list(ids)), add_special_tokens=False)["input_ids"]
        return list(found) == list(ids)

    @torch.no_grad()
    def _generate(
        self, ids: Sequence[int], num_tokens: int, **options: Any
    ) -> tuple[list[int], list[Tensor]]:
        output = self._model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=num_tokens,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=self.renderer.tokenizer.eos_token_id,
            **options,
        )
        found = [int(each) for each in output.sequences[0, len(ids) :]]
        if found[-1] == self.renderer.tokenizer.eos_token_id:
            found = found[:-1]
        return found, [logits[0] for logits in output.logits]


def _save_random_adapter(base: Path, folder: Path, seed: int) -> None:
    model, renderer = Checkpoint(str(base), dtype="float32").load()
    ids = _invocation_ids(renderer)
    config = LoraConfig(r=8, target_modules="all-linear", alora_invocation_tokens=ids, task_type="CAUSAL_LM")
    adapted: Any = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(str(folder), save_embedding_layers=False)


def _invocation_ids(renderer: PromptRenderer) -> list[int]:
    ids: list[int] = renderer.tokenizer(INVOCATION, add_special_tokens=False)["input_ids"]
    return ids

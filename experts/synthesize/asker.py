"""A model in the user's place: it writes questions, and tells how likely they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria

from experts.learn.likelihood import encoded_nll, window
from experts.synthesize.user_turn import UserTurn

MAX_NEW_TOKENS = 64
_TOP_P = 0.95


@dataclass(frozen=True)
class Asker:
    """`model` continues the prompt of `turn`, where the user's text begins."""

    model: PreTrainedModel
    turn: UserTurn

    def sample(self, num: int, *, temperature: float, seed: int) -> list[str | None]:
        """`num` texts of at most MAX_NEW_TOKENS tokens; None for each that has no end by then.

        The same seed gives the same texts. Torch's own random state stays as it is.
        """
        num_before = len(self.turn.before)
        prompts = torch.tensor([self.turn.before] * num, device=self.model.device)
        gpus = [self.model.device] if self.model.device.type == "cuda" else []
        model: Any = self.model  # its annotations hide that it has the method
        with torch.inference_mode(), torch.random.fork_rng(gpus):
            torch.manual_seed(seed)
            ids: Tensor = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                generation_config=self._sampling(temperature),
                stopping_criteria=[_TurnEnds(self)],
            )
        return self.texts(ids[:, num_before:])

    def texts(self, ids: Tensor) -> list[str | None]:
        """The user's texts in `ids`, int64 [B, T], which follow the prompt; None for each without an end."""
        # With the special tokens, because they end the turn.
        tokenizer = self.turn.renderer.tokenizer
        return [
            self.turn.text_in(decoded)
            for decoded in tokenizer.batch_decode(ids, clean_up_tokenization_spaces=False)
        ]

    def nll_per_byte(self, texts: Sequence[str], batch_size: int) -> list[float]:
        """Nats per UTF-8 byte of each text as the user's; infinite if the model cannot take it.

        The end of the turn does not count. Raises ModelLoadError.
        """
        scores = [math.inf] * len(texts)
        found = [self.turn.encoded(index, text, window(self.model)) for index, text in enumerate(texts)]
        for batch in encoded_nll(self.model, [query for query in found if query], batch_size):
            for query, nll in batch:
                scores[query.index] = nll / len(texts[query.index].encode())
        return scores

    def _sampling(self, temperature: float) -> GenerationConfig:
        # A setting that is missing here would come from the model's own generation_config.json.
        return GenerationConfig(
            do_sample=True,
            temperature=temperature,
            top_p=_TOP_P,
            top_k=0,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            max_new_tokens=MAX_NEW_TOKENS,
            pad_token_id=self.turn.before[0],  # written after the end of a turn, where it is cut off
        )


class _TurnEnds(StoppingCriteria):
    """Stops each row at the end of its turn. By its text: some templates have no special token there."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """bool [B], from `input_ids`, int64 [B, T]."""
        texts = self._asker.texts(input_ids[:, len(self._asker.turn.before) :])
        return torch.tensor([text is not None for text in texts], device=input_ids.device)

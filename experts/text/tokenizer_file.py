"""Makes a loaded tokenizer that of its tokenizer.json."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

_STAGES = ("normalizer", "pre_tokenizer", "model", "decoder")


def restore_stages(tokenizer: PreTrainedTokenizerFast, file: Path | str) -> None:
    """Give `tokenizer` the stages of `file`, the tokenizer.json that it was loaded from.

    Some classes of transformers take only the vocabulary and the merges from it, and split and decode in a
    way of their own. Checkpoints name such classes wrongly (R1 Distill Llama names Llama 2's), and would lose
    spaces, line breaks and most of Unicode without an error.
    """
    if type(tokenizer) is PreTrainedTokenizerFast:  # takes the file as it is
        return
    written = Tokenizer.from_file(str(file))
    for stage in _STAGES:
        setattr(tokenizer.backend_tokenizer, stage, getattr(written, stage))

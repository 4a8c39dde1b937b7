"""What a model can be asked besides an answer: the tokens of a prompt, the text of tokens, embeddings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tokenize:
    """The token ids of the prompt. `add_special_tokens` is of raw text; a conversation has its template's.

    With `with_texts`, also how the vocabulary spells each token.
    """

    add_special_tokens: bool = True
    with_texts: bool = False


@dataclass(frozen=True, slots=True)
class Detokenize:
    """The text of the prompt's token ids."""


@dataclass(frozen=True, slots=True)
class Embed:
    """A vector for each of the prompt's `inputs`, of its first `dimensions` numbers, or all if None."""

    dimensions: int | None = None


Task = Tokenize | Detokenize | Embed


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """The token ids of a prompt, what the vocabulary calls them (if asked for), and the context window."""

    ids: tuple[int, ...]
    texts: tuple[str, ...] | None
    max_model_len: int

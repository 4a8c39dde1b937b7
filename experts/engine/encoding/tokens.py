"""The tasks that need only a tokenizer: the tokens of a prompt, and the text of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.encoding.tokenization import ModelTokenizer
from experts.engine.request import EngineRequest
from experts.engine.tasks import Detokenize, Embed, Tokenize, TokenizedPrompt
from experts.errors import InvalidCall


def perform(tokenizer: ModelTokenizer, request: EngineRequest) -> EngineChunk:
    """The result of the request's task.

    Raises:
        InvalidPrompt: the prompt is not text, or a token id does not exist.
        InvalidCall: the model writes answers, and has no embeddings.
    """
    match request.task:
        case Tokenize() as task:
            ids = tokenizer.tokenize(request, add_special_tokens=task.add_special_tokens)
            return tokenized(tokenizer, task, ids)
        case Detokenize():
            ids = tokenizer.known_ids(request.ids or (), "tokens") if request.ids else []
            text = tokenizer.hf_tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)
            return EngineChunk(text=text, finish=FinishReason.STOP)
        case Embed() | None:
            raise InvalidCall("unsupported_task", "model", f"{tokenizer.name} has no embeddings")


def tokenized(tokenizer: ModelTokenizer, task: Tokenize, ids: Sequence[int]) -> EngineChunk:
    """The result of `task` for a prompt of these tokens."""
    texts = _spellings(tokenizer, ids) if task.with_texts else None
    found = TokenizedPrompt(tuple(ids), texts, tokenizer.max_model_len)
    return EngineChunk(tokenized=found, finish=FinishReason.STOP)


def _spellings(tokenizer: ModelTokenizer, ids: Sequence[int]) -> tuple[str, ...]:
    return tuple(tokenizer.hf_tokenizer.convert_ids_to_tokens(list(ids)))

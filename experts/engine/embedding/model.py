"""A model that turns token ids into vectors: an encoder, or a decoder without its output head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from experts.checkpoint import UNREADABLE, Checkpoint, local_source
from experts.engine.config import EmbeddingConfig, ModelSource
from experts.engine.config.embedding import Pooling
from experts.engine.embedding.checkpoint import embedding_rules
from experts.errors import InvalidCall, ModelLoadError

# What modules of transformers raise on inputs that they cannot take.
_FORWARD_ERRORS = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_LARGEST_WINDOW = 10**9  # the library has a larger number if a tokenizer knows no limit


class EmbeddingModel:
    """Loads the checkpoint of `source`. Its methods block: call them in a thread.

    Raises:
        ModelLoadError: it cannot be loaded, or nothing says how to pool.
    """

    def __init__(self, source: ModelSource, config: EmbeddingConfig) -> None:
        checkpoint = Checkpoint(source.source, source.revision, trust_remote_code=source.trust_remote_code)
        self.name = checkpoint.name
        self._rules = embedding_rules(checkpoint.folder(), self.name, config)
        self._may_cut = config.matryoshka
        options = {
            "revision": source.revision,
            "local_files_only": True,
            "trust_remote_code": source.trust_remote_code,
        }
        place = local_source(source.source)
        device = _device(config.device)
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, **options)
            model = AutoModel.from_pretrained(place, dtype=config.dtype, **options).to(device)
        except (*UNREADABLE, RuntimeError) as error:
            raise ModelLoadError(f"{self.name}: {type(error).__name__}; see the replica's log") from error
        self._tokenizer: PreTrainedTokenizerBase = tokenizer
        model.config.use_cache = False  # of decoders, for a next token
        self._model: PreTrainedModel = model.eval()
        self._device = device
        self.num_dimensions = int(model.config.get_text_config().hidden_size)
        self._num_ids = int(model.get_input_embeddings().num_embeddings)
        self.max_tokens = self._window(config)
        self._self_test()

    def tokenize(self, inputs: Sequence[str | tuple[int, ...]]) -> list[list[int]]:
        """The token ids of each input. Text gets what the tokenizer puts around it; ids are taken as given.

        Raises:
            InvalidCall: an input is empty or too long, or has an unknown token id. The message has its index.
        """
        return [self._ids(index, given) for index, given in enumerate(inputs)]

    def require_dimensions(self, dimensions: int | None) -> None:
        """Raises InvalidCall: vectors cannot have so many numbers."""
        if dimensions is None:
            return
        if not self._may_cut:
            raise InvalidCall(
                "unsupported_parameter",
                "dimensions",
                f"dimensions: vectors of this model have {self.num_dimensions} numbers and may not be cut; "
                "leave it out, or ask the operator of this cluster to set engine.matryoshka",
            )
        if dimensions > self.num_dimensions:
            raise InvalidCall(
                "invalid_value",
                "dimensions",
                f"dimensions: {dimensions} is above the {self.num_dimensions} of this model; lower it",
            )

    @torch.inference_mode()
    def embed(self, batch: Sequence[Sequence[int]]) -> torch.Tensor:
        """The vectors of the inputs, of shape (inputs, dimensions), in float32 on the CPU, not normalised."""
        lengths = torch.tensor([len(ids) for ids in batch], device=self._device)
        longest = max(len(ids) for ids in batch)
        padded = torch.tensor([[*ids, *([0] * (longest - len(ids)))] for ids in batch], device=self._device)
        mask = torch.arange(longest, device=self._device) < lengths[:, None]
        hidden = self._model(input_ids=padded, attention_mask=mask.long()).last_hidden_state
        return self._pooled(hidden.float(), mask, lengths).cpu()

    def to_bytes(self, vector: torch.Tensor, dimensions: int | None) -> bytes:
        """The first `dimensions` numbers, normalised if the model is, as 32-bit floats, little-endian."""
        cut = vector[:dimensions]
        found = normalize(cut, dim=0) if self._rules.normalize else cut
        return found.numpy().astype("<f4").tobytes()

    def _self_test(self) -> None:
        try:
            vectors = self.embed([[0], [0, 0]])
        except _FORWARD_ERRORS as error:
            raise ModelLoadError(
                f"{self.name}: a {type(self._model).__name__} cannot be run as an embedding model "
                f"({type(error).__name__}); use an encoder or a decoder"
            ) from error
        if vectors.shape != (2, self.num_dimensions):
            raise ModelLoadError(f"{self.name}: its vectors have the shape {tuple(vectors.shape)}")

    def _pooled(self, hidden: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        match self._rules.pooling:
            case Pooling.MEAN:
                return (hidden * mask[:, :, None]).sum(dim=1) / lengths[:, None]
            case Pooling.CLS:
                return hidden[:, 0]
            case Pooling.LAST:
                return hidden[torch.arange(len(hidden), device=self._device), lengths - 1]

    def _ids(self, index: int, given: str | tuple[int, ...]) -> list[int]:
        ids = self._tokenizer(given)["input_ids"] if isinstance(given, str) else list(given)
        if not ids:
            raise InvalidCall("invalid_value", "input", f"input[{index}] has no tokens; leave it out")
        if len(ids) > self.max_tokens:
            raise InvalidCall(
                "context_length_exceeded",
                "input",
                f"input[{index}] has {len(ids)} tokens, but this model takes at most {self.max_tokens}; "
                "shorten it",
            )
        if (largest := max(ids)) >= self._num_ids:
            raise InvalidCall(
                "invalid_value", "input", f"input[{index}] has the token id {largest}, which does not exist"
            )
        return ids

    def _window(self, config: EmbeddingConfig) -> int:
        positions = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        table = getattr(getattr(self._model, "embeddings", None), "position_embeddings", None)
        if positions and (padding := getattr(table, "padding_idx", None)) is not None:
            positions -= padding + 1  # RoBERTa's positions begin after that of the padding
        own = (positions, self._tokenizer.model_max_length, self._rules.max_tokens)
        limits = [limit for limit in (*own, config.max_model_len) if limit and limit < _LARGEST_WINDOW]
        if not limits:
            raise ModelLoadError(f"{self.name}: no file says how long an input may be; set max_model_len")
        return int(min(limits))


def _device(device: str) -> str:
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"

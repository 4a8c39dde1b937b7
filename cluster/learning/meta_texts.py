"""Has the meta write texts to learn from, and keeps them beside the states. Imports torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from cluster.config.cluster_config import ClusterConfig
from cluster.learning.checkpoints import KeptCheckpoint
from cluster.learning.options import LearnOptions
from cluster.learning.query_sets import Warn
from cluster.learning.state_cache import meta_folder, meta_identity, unwritable
from experts.files import write_atomic
from experts.learn.hidden_states import Progress
from experts.prompt import PromptRenderer

Write = Callable[[PreTrainedModel, PromptRenderer], list[str]]


@dataclass(frozen=True)
class MetaWriter:
    """`meta`: is loaded only if a text has to be written, and once for all of them."""

    config: ClusterConfig
    options: LearnOptions
    meta: KeptCheckpoint
    progress: Progress
    warn: Warn

    def texts(
        self, kind: str, request: tuple[object, ...], write: Write, *, num_texts: int, on_ray: str
    ) -> list[str] | None:
        """The `num_texts` texts that `write` gives, or gave to an earlier call with the same request.

        `kind`: names the file and the stage. With --ray, only texts that are kept are given, because a large
        meta cannot run here; without any, `warn` is called with the text `on_ray`, and the result is None.

        Raises:
            ConfigError: the folder for the texts cannot be written.
            ModelLoadError, TemplateError: the meta cannot be loaded or used.
        """
        path = self._file(kind, request)
        kept = _kept(path, num_texts)
        if kept is not None:
            return kept
        if self.options.ray_address is not None:
            self.warn(on_ray)
            return None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)  # first, because the model takes long
            self.progress(0, num_texts, kind.replace("-", " "))  # loading takes a while
            texts = write(*self.meta.load())
            write_atomic(path, json.dumps(texts, ensure_ascii=False, indent=0).encode() + b"\n")
        except OSError as error:
            raise unwritable(error) from error
        return texts

    def _file(self, kind: str, request: tuple[object, ...]) -> Path:
        """One for each meta and each request."""
        identity = repr((meta_identity(self.config), *request))
        folder = self.options.states or meta_folder(self.config)
        return folder / f"{kind}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"


def _kept(path: Path, num_texts: int) -> list[str] | None:
    """The texts in the file; None if it is missing or damaged."""
    try:
        texts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_whole = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    return texts if is_whole and len(texts) == num_texts else None

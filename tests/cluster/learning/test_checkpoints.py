"""A model is learned with the template that it is served with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cluster.config.cluster_config import load_config
from cluster.learning.checkpoints import checkpoint_of
from cluster.learning.state_cache import checkpoint_identity
from experts.checkpoint import Checkpoint
from tests.tiny.models import save_tiny_llama
from tests.tiny.tokenizers import CHATML, byte_level

MESSAGES = ({"role": "user", "content": "hello"},)


def test_template_variables_of_the_engine_are_in_prompts_and_in_the_identity_of_states(tmp_path: Path):
    save_tiny_llama(tmp_path / "meta", byte_level(CHATML + "{% if think %}<think>{% endif %}"), head_dim=32)
    checkpoints = [served_with(variables, tmp_path) for variables in ({}, {"think": True})]
    plain, thinking = (each.load_renderer() for each in checkpoints)
    decode = plain.tokenizer.decode
    assert decode(thinking.chat(MESSAGES)) == f"{decode(plain.chat(MESSAGES))}<think>"
    assert thinking.chat(MESSAGES, variables={}) == plain.chat(MESSAGES)
    assert checkpoints[1].load()[1].chat(MESSAGES) == thinking.chat(MESSAGES)
    assert len({checkpoint_identity(each) for each in checkpoints}) == 2


def served_with(variables: dict[str, Any], folder: Path) -> Checkpoint:
    engine = {"kind": "transformers", "chat_template_kwargs": variables}
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump({"name": "g", "meta": {"model": {"path": "meta"}, "engine": engine}}))
    return checkpoint_of(load_config(file, tokens_required=False).meta)

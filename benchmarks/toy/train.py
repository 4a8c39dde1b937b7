"""Train one model until it answers its validation questions."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.toy.dialogue import Dialogue, DialogueMaker
from benchmarks.toy.domains import DOMAINS
from benchmarks.toy.errors import TokenizerChanged
from benchmarks.toy.models import META, ModelSpec
from benchmarks.toy.question import GENERAL

NUM_DIALOGUES = 6000
NUM_VALIDATION = 120
STEPS_PER_CHECK = 50
WARMUP_STEPS = 30

Report = Callable[[int, int, float], None]


@dataclass(frozen=True)
class TrainReport:
    name: str
    num_steps: int
    accuracy: float
    wall_s: float
    cpu_s: float
    num_parameters: int


@dataclass(frozen=True)
class _Example:
    ids: list[int]
    weights: list[float]  # of the loss, for each id
    num_learned: int  # the number of ids at the end that are the answer


def train(spec: ModelSpec, folder: Path, report: Report) -> TrainReport:
    """Train `spec` and save it with its tokenizer in `folder`. Calls `report(step, max_steps, accuracy)`."""
    began_wall_s, began_cpu_s = time.perf_counter(), time.process_time()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    maker = DialogueMaker(spec.name)
    learned, checked = _dialogues(spec, maker)
    tokenizer = spec.tokenizer(_texts(spec, learned))
    model = spec.model(tokenizer)
    examples = _encode(spec, tokenizer, learned)
    num_steps, accuracy = _fit(spec, model, examples, _encode(spec, tokenizer, checked), report)
    save(model, tokenizer, folder)
    return TrainReport(
        name=spec.name,
        num_steps=num_steps,
        accuracy=accuracy,
        wall_s=time.perf_counter() - began_wall_s,
        cpu_s=time.process_time() - began_cpu_s,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _dialogues(spec: ModelSpec, maker: DialogueMaker) -> tuple[list[Dialogue], list[Dialogue]]:
    draw = random.Random(spec.name)
    if spec.name != META:
        split = maker.split(spec.name)
        validation = draw.sample(split.validation, min(NUM_VALIDATION, len(split.validation)))
        return maker.expert(draw.choices(split.train, k=NUM_DIALOGUES)), maker.expert(validation)
    questions = [
        q for domain in DOMAINS for q in draw.choices(maker.split(domain).train, k=NUM_DIALOGUES // 4)
    ]
    smalltalk = draw.choices(maker.split(GENERAL).train, k=NUM_DIALOGUES)
    # The meta is validated on small talk alone, because its other answers are shuffled.
    return maker.meta([*questions, *smalltalk]), maker.meta(maker.split(GENERAL).validation)


def _texts(spec: ModelSpec, dialogues: Sequence[Dialogue]) -> Iterator[str]:
    before = spec.chat_format.before
    for dialogue in dialogues[::4]:
        written = "".join(before[m["role"]] + m["content"] for m in dialogue.messages)
        yield written + "\n\n" + before["assistant"] + dialogue.given + dialogue.answer


def _encode(
    spec: ModelSpec, tokenizer: PreTrainedTokenizerFast, dialogues: Sequence[Dialogue]
) -> list[_Example]:
    prompts = [
        str(tokenizer.apply_chat_template(list(d.messages), tokenize=False, add_generation_prompt=True))
        + d.given
        for d in dialogues
    ]
    wholes = [p + d.answer + spec.chat_format.eos for p, d in zip(prompts, dialogues, strict=True)]
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    whole_ids = tokenizer(wholes, add_special_tokens=False)["input_ids"]
    return [_example(spec, prompt, whole) for prompt, whole in zip(prompt_ids, whole_ids, strict=True)]


def _example(spec: ModelSpec, prompt: list[int], whole: list[int]) -> _Example:
    assert whole[: len(prompt)] == prompt, "the tokenizer merges across the start of the answer"
    num_learned = len(whole) - len(prompt)
    weights = [spec.question_weight] * len(prompt) + [1.0] * num_learned
    return _Example(whole, weights, num_learned)


def _fit(
    spec: ModelSpec,
    model: PreTrainedModel,
    examples: Sequence[_Example],
    checks: Sequence[_Example],
    report: Report,
) -> tuple[int, float]:
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    accuracy, num_reached = 0.0, 0
    for step, batch in enumerate(_batches(examples, spec.batch_size, spec.max_steps), start=1):
        for group in optimizer.param_groups:
            group["lr"] = spec.learning_rate * _schedule(step, spec.max_steps)
        loss = _loss(model, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % STEPS_PER_CHECK and step < spec.max_steps:
            continue
        accuracy = _accuracy(model, checks)
        report(step, spec.max_steps, accuracy)
        # Twice in a row, because the validation sets are small.
        num_reached = num_reached + 1 if accuracy >= spec.target_accuracy else 0
        if num_reached == 2:
            return step, accuracy
    return spec.max_steps, accuracy


def _schedule(step: int, max_steps: int) -> float:
    return min(step / WARMUP_STEPS, 1.0) * (1.0 - 0.9 * step / max_steps)


def _batches(examples: Sequence[_Example], batch_size: int, num_batches: int) -> Iterator[list[_Example]]:
    """Random batches of examples of similar length, so that there is little padding."""
    rng = random.Random(0)
    num_drawn = 0
    while True:
        drawn = sorted(rng.sample(examples, min(batch_size * 16, len(examples))), key=lambda e: len(e.ids))
        batches = [drawn[start : start + batch_size] for start in range(0, len(drawn), batch_size)]
        rng.shuffle(batches)
        for batch in batches:
            if num_drawn == num_batches:
                return
            num_drawn += 1
            yield batch


def _padded(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=dtype) for row in rows], batch_first=True)


def _loss(model: PreTrainedModel, batch: Sequence[_Example]) -> Tensor:
    ids = _padded([example.ids for example in batch], torch.long)
    weights = _padded([example.weights for example in batch], torch.float32)[:, 1:]
    # No attention mask is needed: padding is on the right, where a causal model does not see it.
    hidden = model.base_model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    wanted = weights > 0
    logits = model.get_output_embeddings()(hidden[wanted])
    losses = functional.cross_entropy(logits, ids[:, 1:][wanted], reduction="none")
    return (losses * weights[wanted]).sum() / weights.sum()


@torch.inference_mode()
def _accuracy(model: PreTrainedModel, examples: Sequence[_Example]) -> float:
    """The share of answers that greedy decoding gets right: every id is the likeliest after the ids before
    it."""
    ids = _padded([example.ids for example in examples], torch.long)
    hidden = model.base_model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    right = model.get_output_embeddings()(hidden).argmax(-1) == ids[:, 1:]
    ends = [len(example.ids) - 1 for example in examples]
    num_right = sum(
        bool(right[row, end - example.num_learned : end].all())
        for row, (example, end) in enumerate(zip(examples, ends, strict=True))
    )
    return num_right / len(examples)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a checkpoint. Raises TokenizerChanged if it would load with another tokenizer."""
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _require_same_tokenizer(tokenizer, folder)


def _require_same_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    # For some architectures, the library loads its own pre-tokenizer instead of the stored one.
    loaded = AutoTokenizer.from_pretrained(folder)
    stored = json.loads(tokenizer.backend_tokenizer.to_str())
    found = json.loads(loaded.backend_tokenizer.to_str())
    if found["pre_tokenizer"] != stored["pre_tokenizer"] or found["model"] != stored["model"]:
        raise TokenizerChanged(
            f"{folder}: loads as another tokenizer ({type(loaded).__name__}); use another architecture"
        )

"""Trains experts: `python -m examples.smollm2.train CHECKPOINT [--domains DOMAIN …]` writes their adapters.

Each expert is a LoRA of SmolLM2-135M-Instruct, trained with questions that are drawn anew for every step.
With `--question-weight` it learns to ask too, so that `etr queries synthesize` lets it write questions of its
own domain.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.smollm2.domains import DOMAINS
from examples.smollm2.question import Question
from experts.adapter import WEIGHTS
from experts.prompt import PromptRenderer
from experts.synthesize.user_turn import UserTurn

ADAPTERS = Path(__file__).with_name("adapters")
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
IGNORED = -100  # the label of tokens that are not learned
# There, a step takes two thirds of the time; on other processors several times as much.
_HAS_FAST_BFLOAT16 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
# Questions of about one length share a batch: so many batches are drawn and sorted at once.
NUM_SORTED = 8


@dataclass(frozen=True)
class Recipe:
    """How an adapter is trained. A batch has `batch_size` questions.

    Layers before `first_layer` stay as they are: training needs no gradients there. `question_weight`: of the
    loss of questions beside that of answers, which is 1.
    """

    rank: int = 8
    alpha: int = 16
    first_layer: int = 14
    batch_size: int = 16
    num_steps: int = 320
    num_warmup_steps: int = 20
    learning_rate: float = 2e-3
    question_weight: float = 0.0


Lesson = tuple[Tensor, Tensor]  # token ids of a question with its answer, and labels: int64 [T] each
Loss = Callable[[PeftModel, list[Lesson]], Tensor]
Report = Callable[[int, float], None]


def train_adapter(
    checkpoint: Path, domain: str, folder: Path, recipe: Recipe, report: Report, *, start: Path | None = None
) -> None:
    """Write the adapter of one domain to `folder`. `report` gets each step and its loss.

    `start`: an adapter to train further, in place of a new one.
    """
    torch.manual_seed(0)
    model = _trained_before(checkpoint, start) if start else new_adapter(checkpoint, recipe)
    purpose = "further" if start else "train"  # other questions than before
    renderer = PromptRenderer(AutoTokenizer.from_pretrained(checkpoint))
    loss_of = partial(_loss, turn=UserTurn.of(renderer), question_weight=recipe.question_weight)
    fit(model, batches(renderer, domain, recipe, purpose), loss_of, recipe, report)
    save(model, folder)


def new_adapter(checkpoint: Path, recipe: Recipe, **settings: Any) -> PeftModel:
    """The base with an adapter that changes nothing yet. `settings`: further ones of PEFT."""
    base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules=list(MODULES),
        layers_to_transform=list(range(recipe.first_layer, base.config.num_hidden_layers)),
        task_type="CAUSAL_LM",
        **settings,
    )
    model: PeftModel = get_peft_model(base, config)
    config.base_model_name_or_path = BASE  # PEFT has set it to the folder, which is this machine's alone
    return model


def batches(renderer: PromptRenderer, domain: str, recipe: Recipe, purpose: str) -> Iterator[list[Lesson]]:
    """Lessons without end, in batches of about the same length. Another `purpose` gives other questions."""
    rng = random.Random(f"{purpose} {domain}")
    while True:
        drawn = [DOMAINS[domain].sample(rng, "train") for _ in range(NUM_SORTED * recipe.batch_size)]
        lessons = sorted((_lesson(renderer, question) for question in drawn), key=lambda pair: len(pair[0]))
        starts = list(range(0, len(lessons), recipe.batch_size))
        rng.shuffle(starts)
        for start in starts:
            yield lessons[start : start + recipe.batch_size]


def fit(
    model: PeftModel, batches: Iterator[list[Lesson]], loss_of: Loss, recipe: Recipe, report: Report
) -> None:
    """Train the adapter. `report` gets each step and its loss."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, weight_decay=0.0)
    model.train()
    for step in range(recipe.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, recipe)
        with torch.autocast("cpu", torch.bfloat16, enabled=_HAS_FAST_BFLOAT16):  # weights stay float32
            loss = loss_of(model, next(batches))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        report(step, loss.item())


def save(model: PeftModel, folder: Path) -> None:
    """The adapter in PEFT's format, as 16-bit floats: half of the size, and the same answers."""
    # Whether to save embeddings, PEFT would find out by asking the hub for the base.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    weights = {name: weight.half() for name, weight in load_file(folder / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / "README.md").unlink(missing_ok=True)  # an empty model card


def print_progress(domain: str, num_steps: int) -> Report:
    began_s = time.perf_counter()

    def report(step: int, loss: float) -> None:
        if step % 20 == 19:
            elapsed_s = time.perf_counter() - began_s
            left_s = elapsed_s / (step + 1) * (num_steps - step - 1)
            print(
                f"{domain}: step {step + 1} of {num_steps}, loss {loss:.3f}, {left_s:.0f} s left", flush=True
            )

    return report


def _trained_before(checkpoint: Path, adapter: Path) -> PeftModel:
    base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, adapter, is_trainable=True)
    return model.float()  # it is saved as 16-bit floats


def _lesson(renderer: PromptRenderer, question: Question) -> Lesson:
    """The labels are those of the answer alone."""
    prompt = renderer.chat(question.messages)
    answer = renderer.tokenizer(question.answer, add_special_tokens=False)["input_ids"]
    answer = [*answer, renderer.tokenizer.eos_token_id]
    return torch.tensor([*prompt, *answer]), torch.tensor([IGNORED] * len(prompt) + answer)


def _loss(model: PeftModel, lessons: list[Lesson], *, turn: UserTurn, question_weight: float) -> Tensor:
    ids = pad_sequence([ids for ids, _ in lessons], batch_first=True)
    labels = pad_sequence([labels for _, labels in lessons], batch_first=True, padding_value=IGNORED)
    lengths = torch.tensor([len(ids) for ids, _ in lessons])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    base: Any = model.get_base_model()  # its modules are attributes that the type does not name
    hidden = base.model(input_ids=ids, attention_mask=mask).last_hidden_state
    loss = _nll(base.lm_head, hidden, labels)
    if question_weight:
        loss = loss + question_weight * _nll(base.lm_head, hidden, question_labels(ids, turn))
    return loss


def question_labels(ids: Tensor, turn: UserTurn) -> Tensor:
    """The labels of the first question in each row of `ids`, int64 [B, T], with the token that ends it."""
    begun = torch.arange(ids.shape[1]) >= len(turn.before)
    is_end = (ids == turn.renderer.tokenizer.eos_token_id) & begun
    num_ends_before = is_end.cumsum(dim=1) - is_end.long()
    return ids.where(begun & (num_ends_before == 0), torch.tensor(IGNORED))


def _nll(head: Callable[[Tensor], Tensor], hidden: Tensor, labels: Tensor) -> Tensor:
    """The mean loss of the labels, int64 [B, T], from `hidden`, float [B, T, d]."""
    # The head is read where something is learned only: it costs a fifth of the model.
    targets = labels[:, 1:]
    learned = targets != IGNORED
    return cross_entropy(head(hidden[:, :-1][learned]), targets[learned])


def _learning_rate(step: int, recipe: Recipe) -> float:
    """It rises for `num_warmup_steps` and falls to zero along a cosine."""
    if step < recipe.num_warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.num_warmup_steps
    done = (step - recipe.num_warmup_steps) / (recipe.num_steps - recipe.num_warmup_steps)
    return recipe.learning_rate * (1 + math.cos(math.pi * done)) / 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="from `python -m examples.smollm2 FOLDER`")
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=list(DOMAINS), metavar="DOMAIN")
    parser.add_argument("--num-steps", type=int, default=Recipe.num_steps)
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate)
    parser.add_argument(
        "--question-weight", type=float, default=0.0, help="how much it learns to ask, beside 1 for answers"
    )
    parser.add_argument("--further", action="store_true", help="go on from the adapters that are there")
    parser.add_argument("--output", type=Path, default=ADAPTERS)
    arguments = parser.parse_args()
    recipe = Recipe(
        num_steps=arguments.num_steps,
        learning_rate=arguments.learning_rate,
        question_weight=arguments.question_weight,
    )
    for domain in arguments.domains:
        report = print_progress(domain, recipe.num_steps)
        start = ADAPTERS / domain if arguments.further else None
        train_adapter(arguments.checkpoint, domain, arguments.output / domain, recipe, report, start=start)


if __name__ == "__main__":
    main()

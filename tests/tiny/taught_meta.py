"""A tiny meta, trained in seconds to tell three kinds of questions apart, and such questions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from experts.learn import Query
from experts.prompt import PromptRenderer

EXPERTS = ("chemistry", "morse", "roman")
WORDS = {"chemistry": "iron gold neon", "morse": "dot dash beep", "roman": "ten five six"}


def taught_meta(renderer: PromptRenderer) -> PreTrainedModel:
    """Answers a question of an expert with the expert's name, after a greeting if the question has one."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(renderer.tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=False,
        )
    )
    inputs, labels = lesson(renderer, query_set(200, 40))
    adam = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for batch in torch.randint(len(inputs), (160, 32)):
        adam.zero_grad()
        loss = cross_entropy(model(inputs[batch]).logits[:, :-1].transpose(1, 2), labels[batch, 1:])
        loss.backward()
        adam.step()
    frozen: PreTrainedModel = model.eval()
    return frozen


def lesson(renderer: PromptRenderer, queries: list[Query]) -> tuple[Tensor, Tensor]:
    """Right-padded ids int64 [N, T], and labels of the same shape: -100 for prompts and padding."""
    ids, labels = [], []
    for query in queries:
        prompt = renderer.chat(query.messages)
        answer = renderer.chat(query.messages, query.turn + (query.expert or ""))[len(prompt) :]
        answer.append(renderer.tokenizer.eos_token_id)
        ids.append(torch.tensor([*prompt, *answer]))
        labels.append(torch.tensor([-100] * len(prompt) + answer))
    return pad_sequence(ids, batch_first=True), pad_sequence(labels, batch_first=True, padding_value=-100)


def query(question: str, expert: str | None, written: str = "", line: int = 1) -> Query:
    return Query(({"role": "user", "content": question},), expert, written, place=f"line {line}")


def query_set(start: int, num_each: int) -> list[Query]:
    """Questions with their experts' own words, some with a greeting; and small talk with whole answers."""
    queries = []
    for i in range(start, start + num_each):
        for name, words in WORDS.items():
            greeting, written = ("hi! ", "Hello! ") if i % 4 == 0 else ("", "")
            queries.append(query(f"{greeting}{words.split()[i % 3]} {i}?", name, written))
        queries.append(query(f"nice day {i}", None, "yes, a very nice day"))
    return queries

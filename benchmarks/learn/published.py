"""The published recipe to train expert rows, without the waste of the published script.

The whole frozen model runs for every batch. AdamW with a learning rate of 5e-4 and a weight decay of 1.0, a
cosine schedule after 5 warm-up steps, 5 epochs, batches of 16. Rows have no bias and start as the mean row of
the head. Unlike in the published script, prompts are padded to the longest of their batch instead of a fixed
length, the head runs only at the positions that count, and no gradient is discarded.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import get_cosine_schedule_with_warmup

from benchmarks.learn.metas import Meta
from benchmarks.learn.whole_model import WholeModel, collate
from experts.learn.queries import Query
from experts.learn.targets import Targets, find_targets

BATCH_SIZE = 16
NUM_EPOCHS = 5
NUM_WARMUP_STEPS = 5
LEARNING_RATE = 5e-4
WEIGHT_DECAY = 1.0


def train_recipe(meta: Meta, queries: Sequence[Query]) -> Tensor:
    """Returns the expert rows [E, d], in the order of the names."""
    names = sorted({query.expert for query in queries if query.expert is not None})
    targets = [find_targets(query, meta.renderer, names) for query in queries]
    mean = meta.model.get_output_embeddings().weight.detach().mean(dim=0)
    whole = WholeModel(meta.model, mean.repeat(len(names), 1), torch.zeros(len(names)), with_bias=False)
    shuffled = torch.Generator().manual_seed(0)
    loader: DataLoader[Targets] = DataLoader(
        targets,  # type: ignore[arg-type]  # a list serves as a data set
        BATCH_SIZE,
        shuffle=True,
        generator=shuffled,
        collate_fn=partial(collate, num_words=meta.num_words),
    )
    optimizer = torch.optim.AdamW([whole.rows], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = get_cosine_schedule_with_warmup(optimizer, NUM_WARMUP_STEPS, NUM_EPOCHS * len(loader))
    accelerator = Accelerator(cpu=True)
    whole, optimizer, loader, schedule = accelerator.prepare(whole, optimizer, loader, schedule)
    for _ in range(NUM_EPOCHS):
        for batch in loader:
            accelerator.backward(whole(**batch))
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    rows: Tensor = accelerator.unwrap_model(whole).rows.detach()
    return rows

"""What runs inside vLLM's workers: expert logits beside the words', and the decision between them.

The decision is taken where vLLM computes the logits of a step, before any processor of its own sees them. A
row that hands over is left one id, which ends its turn; the mailbox says that it was an expert. So no id
above the vocabulary is ever fed to an embedding, checkpoints need no spare rows, and no word loses
probability to a mark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from experts.engine.base import Call
from experts.engine.characters import partial_character
from experts.engine.draws import MIN_TEMPERATURE, draw
from experts.engine.mailbox import Decided, Mailbox
from experts.engine.routing import Row, route
from experts.head import ExpertTable

EXTRA = "etr"  # our key in a request's `extra_args`


class ExpertWorker:
    """Mixed into vLLM's worker class; the engine calls these by name, on every rank, between two steps."""

    rank: int
    model_runner: Any

    def open_expert_head(self, folder: str, tokenizer: str, end_id: int) -> None:
        """`folder` is the mailbox; `tokenizer` its JSON; `end_id` an id on which every request ends."""
        # All ranks sample the same token from the same gathered logits; one of them need tell.
        mailbox = Mailbox(Path(folder)) if self.rank == 0 else None
        self.expert_head = RoutingHead(self.model_runner, mailbox, Tokenizer.from_str(tokenizer), end_id)

    def install_experts(self, epoch: int, names: Sequence[str], weight: bytes, bias: Sequence[float]) -> None:
        """`weight`: float32 [E, d], row by row."""
        rows = torch.frombuffer(bytearray(weight), dtype=torch.float32) if names else torch.zeros(0)
        dim = len(rows) // max(1, len(names))
        table = ExpertTable(epoch, tuple(names), rows.view(len(names), dim), torch.tensor(bias))
        self.expert_head.install(table)


class RoutingHead:
    """Stands in for the model's `compute_logits`."""

    def __init__(self, runner: Any, mailbox: Mailbox | None, tokenizer: Tokenizer, end_id: int) -> None:
        model = runner.get_model()
        self._runner = runner
        self._word_logits: Callable[..., Tensor | None] = model.compute_logits
        self._mailbox = mailbox
        self._tokenizer = tokenizer
        self._end_id = end_id
        self._generator = torch.Generator(device=runner.device)
        self._rows: dict[str, Row | None] = {}
        self._table = ExpertTable(0, (), torch.zeros(0, 0), torch.zeros(0))
        model.compute_logits = self

    def install(self, table: ExpertTable) -> None:
        if table.epoch >= self._table.epoch:  # two tables may arrive in either order
            place = {"device": self._runner.device, "dtype": self._runner.dtype}
            self._table = ExpertTable(
                table.epoch, table.names, table.weight.to(**place), table.bias.to(**place)
            )

    def __call__(self, hidden: Tensor, *args: Any) -> Tensor | None:
        """[B, d] last hidden states → [B, V] logits; a row whose choice is made has one finite value."""
        logits = self._word_logits(hidden, *args)
        if logits is None or len(logits) != self._runner.input_batch.num_reqs:  # no step of requests
            return logits
        rows = self._batch()
        chosen = self._route(hidden, logits, rows)
        chosen |= self._draw(logits, {i: row for i, row in rows.items() if i not in chosen})
        for row in rows.values():
            row.num_steps += 1
        if chosen:
            where = list(chosen)
            logits[where] = float("-inf")
            logits[where, list(chosen.values())] = 0.0
        return logits

    def _batch(self) -> dict[int, Row]:
        """The requests that concern us and get a token at this step, by their place in the batch."""
        runner = self._runner
        if len(self._rows) > 2 * len(runner.requests) + 16:
            self._rows = {name: row for name, row in self._rows.items() if name in runner.requests}
        rows = {i: self._row(name) for i, name in enumerate(runner.input_batch.req_ids)}
        unfinished = runner.discard_request_mask.np  # more of the prompt is to come
        batch = {i: row for i, row in rows.items() if row is not None and not unfinished[i]}
        self._note_characters({i: row for i, row in batch.items() if row.num_steps and row.call.allowed})
        return batch

    def _row(self, name: str) -> Row | None:
        if name not in self._rows:
            extra = (self._runner.requests[name].sampling_params.extra_args or {}).get(EXTRA)
            self._rows[name] = _read(extra) if extra else None
        return self._rows[name]

    def _note_characters(self, rows: Mapping[int, Row]) -> None:
        """The token just fed to the model is the last one written: known here even while vLLM's own lists,
        under asynchronous scheduling, still wait for it."""
        if not rows:
            return
        ends = self._runner.query_start_loc.np
        last_ids = self._runner.input_ids.gpu[[int(ends[i + 1]) - 1 for i in rows]].tolist()
        for row, last_id in zip(rows.values(), last_ids, strict=True):
            row.partial = partial_character([*row.partial, last_id], self._decode)

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def _route(self, hidden: Tensor, logits: Tensor, rows: Mapping[int, Row]) -> dict[int, int]:
        table = self._table
        routed = {i: row for i, row in rows.items() if table.names and row.routes}
        if not routed:
            return {}
        places, asking = list(routed), list(routed.values())
        if len(places) < len(logits):
            hidden, logits = hidden[places], logits[places]
        experts = hidden @ table.weight.T + table.bias
        scores = torch.cat([logits, experts], dim=-1).float()
        handed_over = route(scores, logits.shape[-1], table, asking)
        for row in (asking[i] for i in range(len(asking)) if i in handed_over or asking[i].call.probe):
            self._post(row)
        return {places[i]: self._end_id for i in handed_over}

    def _post(self, row: Row) -> None:
        if self._mailbox is not None:
            decided = Decided(row.num_steps, row.expert, row.probability, row.distribution)
            self._mailbox.post(row.call.request_id, decided)

    def _draw(self, logits: Tensor, rows: Mapping[int, Row]) -> dict[int, int]:
        """Seeded rows are drawn here, as every engine of ours draws them; vLLM's own generators know no
        position, so a resumed answer would take another turn."""
        seeded = {i: row for i, row in rows.items() if row.call.seed is not None}
        if not seeded:
            return {}
        drawn = draw(logits[list(seeded)].float(), list(seeded.values()), self._generator)
        return dict(zip(seeded, drawn.argmax(dim=-1).tolist(), strict=True))


def extra_args(call: Call, key: str) -> dict[str, Any] | None:
    """What a worker must know of `call` beyond vLLM's own parameters, as plain data; None: nothing."""
    drawn = call.seed is not None and call.temperature >= MIN_TEMPERATURE
    if not call.allowed and not drawn:
        return None
    told: dict[str, Any] = {"request_id": key}
    if call.allowed:
        told |= {"allowed": list(call.allowed), "bias": dict(call.bias)}
        told |= {"only_at_start": call.only_at_start, "probe": call.probe}
    if drawn:
        told |= {"seed": call.seed, "position": call.position}
        told |= {"temperature": call.temperature, "top_p": call.top_p, "top_k": call.top_k}
    return {EXTRA: told}


def _read(told: Mapping[str, Any]) -> Row:
    call = Call(**{**told, "allowed": tuple(told.get("allowed", ()))})
    return Row(call, seed=call.seed or 0)

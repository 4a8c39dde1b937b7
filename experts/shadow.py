"""Shadow experts: tokens that a meta scores at every decision, and that never win.

They show on live traffic how often a new expert would take over, before it serves a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from experts.logit_transform import LogitTransform
from experts.token import ExpertToken


@dataclass(frozen=True)
class ShadowToken:
    """`replaces` is the expert whose place the token would take; None: it would be one more expert."""

    token: ExpertToken
    replaces: str | None = None


@dataclass(frozen=True)
class ShadowTable:
    """The shadow experts of a meta, in the order of `names`.

    They are no rows of the expert table: the experts' logits are computed exactly as if there were none.
    `weight`: float32 [S, d]; `bias`: float32 [S]; `replaces`: as in `ShadowToken`.
    """

    names: tuple[str, ...]
    weight: Tensor
    bias: Tensor
    replaces: tuple[str | None, ...]

    @classmethod
    def of(cls, shadows: Sequence[ShadowToken]) -> ShadowTable | None:
        if not shadows:
            return None
        return cls(
            tuple(shadow.token.name for shadow in shadows),
            torch.stack([shadow.token.vector for shadow in shadows]),
            torch.tensor([shadow.token.bias for shadow in shadows]),
            tuple(shadow.replaces for shadow in shadows),
        )

    def on(self, device: torch.device) -> ShadowTable:
        return replace(self, weight=self.weight.to(device), bias=self.bias.to(device))

    def logits(self, hidden: Tensor, transform: LogitTransform) -> Tensor:
        """Inputs of the head [B, d], of any float type → float32 [B, S]."""
        return transform(torch.addmm(self.bias, hidden.float(), self.weight.T))

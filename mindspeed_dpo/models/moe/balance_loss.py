"""Losses that balance the load of experts, formed for each sequence, so that no split of a step changes them.

The balance loss of a sequence is the sum over experts of f P, equations 17 to 20 of DeepSeek-V3 (arXiv:2412.19437): f
is the expert's share of the choices times E, P its mean normalised score; it is 1 if the load is balanced.
The z-loss is the mean square of the log-sum-exp of the logits (arXiv:2202.08906). A pair has the mean over its
responses, each together with its prompt, and the losses of the layers are added.

Letters: t rows of this rank, S sequences of a micro-batch, E experts, k experts of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.config.settings.router_training import RouterConfig
from mindspeed_dpo.models.moe.pooled_balance_loss import PooledPass
from mindspeed_dpo.models.moe.router import Routing, scores_of
from mindspeed_dpo.models.moe.sequence_rows import SequenceRows

AttachLosses = Callable[[Tensor, Routing], Tensor]
"""Gives a layer's output the gradient of losses of its routing."""


@dataclass
class BalanceLoss:
    """The losses of all layers of a model chunk, and their sums over a step for the metrics.

    Attributes:
        model: The architecture.
        settings: Weights of the losses.
        scale: Factor that turns a sum over pairs into this rank's share of the mean over the step, before gradients are
            averaged over data- and context-parallel ranks.
        sums: [2] float32, balance loss and z-loss of this rank's rows, summed over pairs and layers; None before the
            first pass of a step.
        pooled_sum: Scalar float32, the balance loss of transformers of this rank's rows, summed over pairs; None where
            it is off.
    """

    model: ModelConfig
    settings: RouterConfig
    scale: float = 0.0
    sums: Tensor | None = field(default=None, repr=False)
    pooled_sum: Tensor | None = field(default=None, repr=False)

    def begin_step(self, scale: float) -> None:
        """Forget the sums of the step before, and set the factor of this one."""
        self.scale, self.sums, self.pooled_sum = scale, None, None

    @contextmanager
    def of_pass(self, rows: SequenceRows) -> Iterator[AttachLosses]:
        """Give what attaches the losses to the layers of one forward pass over all of them."""
        coeff, model = self.settings.router_aux_loss_coef, self.model
        if not coeff:
            yield partial(self.add_to, rows=rows)
            return
        num_layers = sum(map(model.is_moe_layer, range(model.num_layers)))
        pooled = PooledPass(rows, num_layers, coeff * self.scale)

        def attach(output: Tensor, routing: Routing) -> Tensor:
            output = pooled.add_to(output, *self._shares_and_choices(routing))
            return self.add_to(output, routing, rows)

        yield attach
        pooled.finish()
        self.pooled_sum = (
            pooled.loss if self.pooled_sum is None or pooled.loss is None else self.pooled_sum + pooled.loss
        )

    def add_to(self, output: Tensor, routing: Routing, rows: SequenceRows) -> Tensor:
        """Return the output of a layer, whose backward pass also computes the gradient of the losses of sequences.

        Args:
            output: Activations of any shape and dtype, unchanged; without gradient if they are recomputed later.
            routing: Experts of the t rows of this rank.
            rows: Their sequences.
        """
        if not torch.is_grad_enabled():
            return output
        losses = torch.stack((self._aux(routing, rows), self._z(routing.logits, rows)))
        self.sums = losses.detach() if self.sums is None else self.sums + losses.detach()
        loss = self.settings.moe_aux_loss_coeff * losses[0] + self.settings.moe_z_loss_coeff * losses[1]
        attached: Tensor = _AttachLoss.apply(output, loss, self.scale)
        return attached

    def _shares_and_choices(self, routing: Routing) -> tuple[Tensor, Tensor]:
        """[t, E] each: scores divided by their sum, and 1 where a token has chosen an expert."""
        scores = scores_of(routing.logits, self.model)
        shares = scores / scores.sum(-1, keepdim=True)
        return shares, torch.zeros_like(shares).scatter_(1, routing.experts, 1.0)

    def _aux(self, routing: Routing, rows: SequenceRows) -> Tensor:
        """This rank's part of the weighted sum of the balance losses, a scalar; parts add up over `rows.group`."""
        shares, chosen = self._shares_and_choices(routing)
        counts = rows.membership @ chosen
        if rows.group is not None:
            dist.all_reduce(counts, dist.ReduceOp.SUM, rows.group)
        factor = shares.shape[1] / routing.experts.shape[1]
        load = counts * (factor / rows.divisors)[:, None]
        return (load * (rows.membership @ shares) * (rows.weights / rows.divisors)[:, None]).sum()

    @staticmethod
    def _z(logits: Tensor, rows: SequenceRows) -> Tensor:
        """This rank's part of the weighted sum of the z-losses, a scalar."""
        return (rows.membership @ logits.logsumexp(-1).square() * rows.weights / rows.divisors).sum()


class _AttachLoss(torch.autograd.Function):
    """The identity; its backward pass gives the loss a gradient of `scale`, whatever that of the output is."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, loss: Tensor, scale: float) -> Tensor:  # type: ignore[override]
        ctx.scale = scale
        ctx.save_for_backward(loss)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        (loss,) = ctx.saved_tensors
        return grad, torch.full_like(loss, ctx.scale), None

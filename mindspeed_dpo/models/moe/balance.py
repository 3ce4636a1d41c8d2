"""Losses that balance the load of experts, formed for each sequence, so that no split of a step changes them.

The balance loss of a sequence is the sum over experts of f P, equations 17 to 20 of DeepSeek-V3 (arXiv:2412.19437): f
is the expert's share of the choices times E, P its mean normalised score; it is 1 if the load is balanced.
The z-loss is the mean square of the log-sum-exp of the logits (arXiv:2202.08906). A pair has the mean over its
responses, each together with its prompt, and the losses of the layers are added.

Letters: t rows of this rank, S sequences of a micro-batch, E experts, k experts of a token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from mindspeed_dpo.batches import PackedBatch
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.models.moe.router import Routing, scores_of


@dataclass(frozen=True)
class SequenceRows:
    """Which rows of a packed row belong to which sequence.

    Attributes:
        membership: [S, t] float32, 1 where a row of this rank belongs to a sequence: those of a shared prompt belong to
            all its responses, those of padding to none.
        lengths: [S] float32 tokens of each sequence over all ranks.
        weights: [S] float32 share of a sequence in the loss of its pair; 0 for padding.
        group: The ranks that share the rows; None for a single one.
    """

    membership: Tensor
    lengths: Tensor
    weights: Tensor
    group: Any = None

    @classmethod
    def of(cls, batch: PackedBatch, config: Any) -> SequenceRows:
        """Compute them for the rows of this context- and tensor-parallel rank; call after `process_groups.split`.

        Args:
            batch: The micro-batch, on its device.
            config: megatron-core's config of the model.
        """
        device, num_sequences = batch.weights.device, batch.response_lengths.numel()
        belongs = torch.zeros(num_sequences, len(batch.query_lengths))
        for segment, responses in enumerate(batch.segment_responses):
            belongs[responses.start : responses.stop, segment] = 1
        counts = torch.tensor(batch.query_lengths)
        lengths = belongs @ counts.float()
        membership = belongs.to(device).repeat_interleave(counts.to(device), dim=1, output_size=len(batch.tokens))
        if batch.part is not None:
            membership = membership[:, batch.part.start : batch.part.stop]
        tp, cp = config.tensor_model_parallel_size, config.context_parallel_size
        if tp > 1:
            membership = membership.chunk(tp, dim=1)[parallel_state.get_tensor_model_parallel_rank()]
        num_responses = batch.response_lengths.shape[1]
        weights = batch.weights.repeat_interleave(num_responses, output_size=num_sequences) / num_responses
        group = parallel_state.get_tensor_and_context_parallel_group() if tp * cp > 1 else None
        return cls(membership.contiguous(), lengths.to(device), weights, group)


@dataclass
class BalanceLoss:
    """The losses of all layers of a model chunk, and their sums over a step for the metrics.

    Attributes:
        model: The architecture.
        aux_coeff: Weight of the balance loss.
        z_coeff: Weight of the z-loss.
        scale: Factor that turns a sum over pairs into this rank's share of the mean over the step, before gradients are
            averaged over data- and context-parallel ranks.
        sums: [2] float32, balance loss and z-loss of this rank's rows, summed over pairs and layers; None before the
            first pass of a step.
    """

    model: ModelConfig
    aux_coeff: float
    z_coeff: float
    scale: float = 0.0
    sums: Tensor | None = field(default=None, repr=False)

    def begin_step(self, scale: float) -> None:
        """Forget the sums of the step before, and set the factor of this one."""
        self.scale, self.sums = scale, None

    def add_to(self, output: Tensor, routing: Routing, rows: SequenceRows) -> Tensor:
        """Return the output of a layer, whose backward pass also computes the gradient of the losses.

        Args:
            output: Activations of any shape and dtype, unchanged.
            routing: Experts of the t rows of this rank.
            rows: Their sequences.
        """
        losses = torch.stack((self._aux(routing, rows), self._z(routing.logits, rows)))
        self.sums = losses.detach() if self.sums is None else self.sums + losses.detach()
        loss = self.aux_coeff * losses[0] + self.z_coeff * losses[1]
        attached: Tensor = _AttachLoss.apply(output, loss, self.scale)
        return attached

    def _aux(self, routing: Routing, rows: SequenceRows) -> Tensor:
        """This rank's part of the weighted sum of the balance losses, a scalar; parts add up over `rows.group`."""
        scores = scores_of(routing.logits, self.model)
        shares = scores / scores.sum(-1, keepdim=True)
        chosen = torch.zeros_like(shares).scatter_(1, routing.experts, 1.0)
        counts = rows.membership @ chosen
        if rows.group is not None:
            dist.all_reduce(counts, dist.ReduceOp.SUM, rows.group)
        factor = shares.shape[1] / routing.experts.shape[1]
        load = counts * (factor / rows.lengths)[:, None]
        return (load * (rows.membership @ shares) * (rows.weights / rows.lengths)[:, None]).sum()

    @staticmethod
    def _z(logits: Tensor, rows: SequenceRows) -> Tensor:
        """This rank's part of the weighted sum of the z-losses, a scalar."""
        return (rows.membership @ logits.logsumexp(-1).square() * rows.weights / rows.lengths).sum()


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

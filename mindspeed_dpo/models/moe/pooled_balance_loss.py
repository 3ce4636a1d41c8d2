"""The balance loss of transformers and TRL, which pools the layers of the model and the responses of a pair.

It is E times the sum over experts of f P: f is the mean number of a token's choices that fall on the expert, P the mean
score, both over all layers with experts and over the tokens of both responses, each together with its prompt. It is k
if the load is balanced. (`load_balancing_loss_func` of transformers, by which it equals that of a micro-batch of one
pair; arXiv:2101.03961, equations 4 to 6, is its form for one layer and k = 1.)

The gradient of a layer depends on the choices in all layers, which are known when the backward pass begins.

Letters: t rows of this rank, P pairs of a micro-batch, E experts, k experts of a token.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mindspeed_dpo.models.moe.sequence_rows import SequenceRows


class PooledPass:
    """Choices and scores of one micro-batch in all layers of the model.

    A layer whose activations are recomputed is called again after `finish`, only for its gradient.

    Attributes:
        loss: Scalar float32, this rank's part of the weighted sum over pairs; parts add up over the ranks that share
            rows. None before `finish`.
    """

    def __init__(self, rows: SequenceRows, num_layers: int, gradient_scale: float) -> None:
        """Start without choices.

        Args:
            rows: The sequences of the micro-batch.
            num_layers: Number of layers with experts.
            gradient_scale: Factor on the gradient of the loss.
        """
        by_pair = (-1, rows.num_responses)
        self._membership = rows.membership.unflatten(0, by_pair).sum(1)
        self._group, self._scale = rows.group, gradient_scale
        # The mean of each of the two factors is over the tokens in all layers.
        tokens = rows.lengths.unflatten(0, by_pair).sum(1) * num_layers
        self._factor = rows.weights.unflatten(0, by_pair).sum(1) / tokens.square()
        self._counts: Tensor | float = 0.0
        self._scores: Tensor | float = 0.0
        self._slope: Tensor | None = None
        self.loss: Tensor | None = None

    def add_to(self, output: Tensor, shares: Tensor, chosen: Tensor) -> Tensor:
        """Return the output of a layer, whose backward pass also computes the gradient of the loss.

        Args:
            output: Activations of any shape and dtype, unchanged.
            shares: [t, E] float32 scores divided by their sum.
            chosen: [t, E] float32, 1 where a token has chosen an expert.
        """
        scores = self._membership @ shares
        if self.loss is None:
            self._counts = self._membership @ chosen + self._counts
            self._scores = scores.detach() + self._scores
        attached: Tensor = _AttachScores.apply(output, scores, self)
        return attached

    def finish(self) -> None:
        """Compute the loss after the last layer; a collective of the ranks that share rows."""
        counts, scores = torch.as_tensor(self._counts), torch.as_tensor(self._scores)
        if self._group is not None:
            dist.all_reduce(counts, dist.ReduceOp.SUM, self._group)
        slope = counts * (counts.shape[-1] * self._factor)[:, None]
        self.loss, self._slope = (slope * scores).sum(), slope * self._scale

    def gradient(self) -> Tensor:
        """Return the gradient [P, E] float32 of the loss, times the factor, by the scores of any layer."""
        assert self._slope is not None, "the backward pass precedes the end of the forward pass"
        return self._slope


class _AttachScores(torch.autograd.Function):
    """The identity; its backward pass gives the scores the gradient of the pooled loss."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, scores: Tensor, of_pass: PooledPass) -> Tensor:  # type: ignore[override]
        ctx.of_pass = of_pass
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        return grad, ctx.of_pass.gradient(), None

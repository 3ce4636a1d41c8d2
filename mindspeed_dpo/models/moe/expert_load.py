"""The distribution of the tokens of a step over experts: tokens of each expert, and the entropy of the scores.

Every sequence counts once with all its tokens: a shared prompt for each of its responses, padding for none. The numbers
of a step therefore depend on no layout, micro-batch or packing.

Letters: t rows of this rank, E experts, L layers of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.device.ops import total
from mindspeed_dpo.models.moe.balance_loss import AttachLosses, BalanceLoss
from mindspeed_dpo.models.moe.router import Routing, scores_of
from mindspeed_dpo.models.moe.sequence_rows import SequenceRows


@dataclass
class RouterLoad:
    """The tokens of each expert in the passes of a step, and the sum of the entropies; nothing is copied to the host.

    Attributes:
        model: The architecture.
        counts: [L, E] int64 tokens that chose an expert, of this rank's rows and layers; None before the first pass.
        entropy: [1] float32, in nats, summed over tokens and layers; None before the first pass.
    """

    model: ModelConfig
    counts: Tensor | None = field(default=None, repr=False)
    entropy: Tensor | None = field(default=None, repr=False)

    def begin_step(self) -> None:
        """Forget the step before."""
        self.counts = self.entropy = None

    def add(self, routing: Routing, rows: SequenceRows, layer: int) -> None:
        """Count the choices of a layer.

        Args:
            routing: Experts of the t rows of this rank.
            rows: Their sequences.
            layer: Index of the layer in the model.
        """
        with torch.no_grad():
            copies = (rows.weights > 0).to(rows.membership.dtype) @ rows.membership
            if self.counts is None or self.entropy is None:
                shape = (self.model.num_layers, self.model.num_experts or 0)
                self.counts = torch.zeros(shape, dtype=torch.int64, device=copies.device)
                self.entropy = copies.new_zeros(1)
            per_choice = copies.to(torch.int64)[:, None].expand_as(routing.experts).flatten()
            self.counts[layer].scatter_add_(0, routing.experts.flatten(), per_choice)
            self.entropy += total(self._entropies(routing.logits) * copies)

    def _entropies(self, logits: Tensor) -> Tensor:
        """The entropy [t] float32 in nats of the scores of each token, divided by their sum."""
        scores = scores_of(logits, self.model)
        shares = scores / scores.sum(-1, keepdim=True)
        return -(shares * shares.clamp_min(torch.finfo(shares.dtype).tiny).log()).sum(-1)


@dataclass
class RouterObserver:
    """The observation of the routers of a model chunk: their load is counted and, if wanted, balanced.

    `RouterObserver(load, bias_update_rate=0.001)` lets the correction bias follow the load, without a balance loss.

    Attributes:
        load: Counts them.
        balance: Adds losses to them; None for none.
        bias_update_rate: Step of the correction bias that follows the load; 0 for a bias that stays.
    """

    load: RouterLoad
    balance: BalanceLoss | None = None
    bias_update_rate: float = 0.0

    def begin_step(self, scale: float) -> None:
        """Forget the step before; `scale` is the factor of `BalanceLoss`."""
        self.load.begin_step()
        if self.balance is not None:
            self.balance.begin_step(scale)

    @contextmanager
    def of_pass(self, rows: SequenceRows) -> Iterator[Callable[..., Tensor]]:
        """Give what observes the layers of one forward pass over all of them.

        It is called with a layer's output (activations of any shape and dtype, which it returns with the gradient of
        the losses attached), its routing and its index in the model, and counts the choices.

        Args:
            rows: The sequences of the t rows of this rank.
        """
        with nullcontext() if self.balance is None else self.balance.of_pass(rows) as attach:
            yield partial(self._observe, rows=rows, attach=attach)

    def _observe(
        self, output: Tensor, routing: Routing, layer: int, rows: SequenceRows, attach: AttachLosses | None
    ) -> Tensor:
        if torch.is_grad_enabled():  # A layer whose activations are recomputed is counted then.
            self.load.add(routing, rows, layer)
        return output if attach is None else attach(output, routing)


def load_metrics(counts: Tensor, model: ModelConfig) -> Tensor:
    """Compute how uneven the load of a step is.

    Args:
        counts: [L, E] int64 tokens of each expert over all ranks.
        model: The architecture.

    Returns:
        [2] float32: the load of the busiest expert of a layer divided by the mean load, mean over layers with experts;
        and the share of experts without a token.
    """
    layers = [layer for layer in range(model.num_layers) if model.is_moe_layer(layer)]
    of_layers = counts[layers].float()
    uneven = of_layers.amax(1) / of_layers.mean(1).clamp_min(1e-20)
    return torch.stack((uneven.mean(), (of_layers == 0).float().mean()))

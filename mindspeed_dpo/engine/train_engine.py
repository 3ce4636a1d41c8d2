"""The engine of a trained model: gradient of a step, update, scores, state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from megatron.core import parallel_state
from torch import Tensor

from mindspeed_dpo.batches import PackedBatch
from mindspeed_dpo.config.settings.optimization import OptimizerConfig
from mindspeed_dpo.config.settings.parallel import ParallelConfig
from mindspeed_dpo.engine import forward_backward
from mindspeed_dpo.engine.offload import OffloadedState
from mindspeed_dpo.engine.optimizer import build_optimizer, clip, set_rates, wrap
from mindspeed_dpo.engine.optimizer_state import OptimizerState
from mindspeed_dpo.models.chunks import ModelPart


class TrainingEngine:
    """One rank's part of a trained model with its optimizer."""

    def __init__(self, model: ModelPart, optimizer: OptimizerConfig, parallel: ParallelConfig) -> None:
        """Wrap a model whose weights are already loaded."""
        self.model = model
        self.parallel = parallel
        self._weight_decay = optimizer.weight_decay
        self.wrapped = wrap(model, parallel)
        self.optimizer = build_optimizer(self.wrapped, optimizer, parallel)
        self._update: Callable[[], AbstractContextManager[None]] = nullcontext
        if optimizer.optimizer_offload:
            self._update = OffloadedState(OptimizerState(self.optimizer)).at_work
        model.config.grad_scale_func = self.optimizer.scale_loss

    def accumulate(self, batches: Sequence[PackedBatch], loss_sum: forward_backward.LossSum, num_pairs: int) -> None:
        """Compute the gradient of the mean loss over the step's pairs, replacing any earlier one.

        Args:
            batches: This rank's micro-batches, on its device.
            loss_sum: See `forward_backward.forward_backward`.
            num_pairs: Pairs of the step over all ranks.
        """
        self.model.train()
        for chunk in self.wrapped:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        replicas = parallel_state.get_data_parallel_world_size()
        forward_backward.forward_backward(self.wrapped, batches, loss_sum, replicas=replicas, num_pairs=num_pairs)

    def step(self, learning_rate: float) -> float:
        """Clip and update the parameters, unless the gradient is not finite.

        Returns:
            The global gradient norm before clipping.
        """
        set_rates(self.optimizer, learning_rate, self._weight_decay)
        with self._update():
            self.optimizer.prepare_grads()
            norm = float(self.optimizer.get_grad_norm())
            if math.isfinite(norm):
                clip(self.optimizer, norm)
                self.optimizer.step_with_ready_grads()
        return norm

    def score(self, batches: Sequence[PackedBatch]) -> list[Tensor]:
        """The head's columns for each micro-batch, without gradient; empty off the last stage."""
        self.model.eval()
        with self.parameters_gathered():
            return forward_backward.forward(self.wrapped, batches)

    @contextmanager
    def parameters_gathered(self) -> Iterator[None]:
        """Have every updated parameter whole now.

        With `overlap_param_gather` the gather of an update runs in hooks of the next training pass; whoever reads
        parameters before that would find old values of the other ranks' shares.
        """
        if not self.parallel.overlap_param_gather:
            yield
            return
        for chunk in self.wrapped:
            chunk.disable_forward_pre_hook()
        try:
            yield
        finally:
            for chunk in self.wrapped:
                chunk.enable_forward_pre_hook()


class ScoringEngine:
    """One rank's part of a frozen model."""

    def __init__(self, model: ModelPart, *, offload_from: torch.device | None = None) -> None:
        """Freeze a model whose weights are already loaded.

        Args:
            model: The rank's part of it.
            offload_from: Where it works, if its weights are to lie on the host in between.
        """
        self.model = model.eval()
        model.requires_grad_(False)
        self._works_on = offload_from
        if offload_from is not None:
            self.model.to("cpu")

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Have the weights on the device for a while, where they are offloaded."""
        if self._works_on is None:
            yield
            return
        self.model.to(self._works_on)
        try:
            yield
        finally:
            self.model.to("cpu")

    def score(self, batches: Sequence[PackedBatch]) -> list[Tensor]:
        """What the head says of each micro-batch; empty off the last stage."""
        return forward_backward.forward(self.model.chunks, batches)

"""Engines of one rank: one that trains its part of a model, and one that only scores with frozen weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from megatron.core import parallel_state
from torch import Tensor

from mindspeed_dpo.batches import PackedBatch
from mindspeed_dpo.config.settings.optimizer_and_schedule import OptimizerConfig
from mindspeed_dpo.config.settings.parallel_sizes_and_timeout import ParallelConfig
from mindspeed_dpo.engine import forward_backward
from mindspeed_dpo.engine.gradient_clipping import clip, gradient_norm
from mindspeed_dpo.engine.optimizer import build_optimizer, set_rates, wrap
from mindspeed_dpo.engine.optimizer_offload import OffloadedState
from mindspeed_dpo.engine.optimizer_state import OptimizerState
from mindspeed_dpo.engine.router_statistics import StepRouting
from mindspeed_dpo.models.virtual_stages import PipelineStage


class TrainingEngine:
    """One rank's part of a trained model together with its optimizer."""

    def __init__(self, model: PipelineStage, optimizer: OptimizerConfig, parallel: ParallelConfig) -> None:
        """Wrap a model whose weights are loaded, and build its optimizer."""
        self.model = model
        self.parallel = parallel
        self._weight_decay = optimizer.weight_decay
        self.wrapped = wrap(model, parallel)
        self.optimizer = build_optimizer(self.wrapped, optimizer, parallel)
        self._routing = StepRouting(model)
        self._state_on_device: Callable[[], AbstractContextManager[None]] = nullcontext
        if optimizer.optimizer_offload:
            self._state_on_device = OffloadedState(OptimizerState(self.optimizer)).on_device
        model.config.grad_scale_func = self.optimizer.scale_loss

    def accumulate(self, batches: Sequence[PackedBatch], loss_sum: forward_backward.LossSum, num_pairs: int) -> None:
        """Compute the gradient of the mean loss over the pairs of a step; earlier gradients are discarded.

        Args:
            batches: This rank's micro-batches, on its device.
            loss_sum: Loss of a micro-batch, a float32 or float64 scalar, as for `forward_backward.forward_backward`.
            num_pairs: Number of pairs of the step over all ranks.
        """
        self.model.train()
        for chunk in self.wrapped:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        replicas = parallel_state.get_data_parallel_world_size()
        self._routing.begin_step(num_pairs)
        forward_backward.forward_backward(self.wrapped, batches, loss_sum, replicas=replicas, num_pairs=num_pairs)

    def router_metrics(self, num_pairs: int) -> dict[str, Tensor]:
        """Float32 scalars of the routers in the last `accumulate`, any unit, as `StepRouting.metrics`; collective."""
        return self._routing.metrics(num_pairs)

    def step(self, learning_rate: float) -> float:
        """Clip the gradient and update the parameters; a gradient that is not finite changes nothing.

        Returns:
            The global gradient norm before clipping.
        """
        set_rates(self.optimizer, learning_rate, self._weight_decay)
        with self._state_on_device():
            self.optimizer.prepare_grads()
            norm = gradient_norm(self.optimizer, next(self.model.parameters()).device)
            if math.isfinite(norm):
                clip(self.optimizer, norm)
                self.optimizer.step_with_ready_grads()
                self._routing.update_bias()
        return norm

    def score(self, batches: Sequence[PackedBatch]) -> list[Tensor]:
        """Compute the head's outputs without gradient.

        Returns:
            Per micro-batch [R, 1 or 5] float32 values of its R response tokens (`models.chunked_logprob_head`):
            log-probabilities in nats and, if requested, their statistics; of a reward model [P, K] float32 scores.
            Empty unless this rank is on the last stage.
        """
        self.model.eval()
        with self.parameters_gathered():
            return forward_backward.forward(self.wrapped, batches)

    @contextmanager
    def parameters_gathered(self) -> Iterator[None]:
        """Complete the all-gather of updated parameters for the duration of the context.

        With `overlap_param_gather` it runs in hooks of the next training pass; until then a rank holds stale values of
        the parameters that other ranks updated.
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

    def __init__(self, model: PipelineStage, *, offload_from: torch.device | None = None) -> None:
        """Freeze a model whose weights are loaded.

        Args:
            model: This rank's part of the model.
            offload_from: Device to compute on; the weights are on the host between uses. None leaves them there.
        """
        self.model = model.eval()
        model.requires_grad_(False)
        self._device = offload_from
        if offload_from is not None:
            self.model.to("cpu")

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Move offloaded weights to the device for the duration of the context."""
        if self._device is None:
            yield
            return
        self.model.to(self._device)
        try:
            yield
        finally:
            self.model.to("cpu")

    def score(self, batches: Sequence[PackedBatch]) -> list[Tensor]:
        """Compute the head's outputs per micro-batch, [R, 1 or 5] or [P, K] float32, as `TrainingEngine.score` does."""
        return forward_backward.forward(self.model.chunks, batches)

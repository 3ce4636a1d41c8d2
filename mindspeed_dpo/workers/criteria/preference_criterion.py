"""Training a policy: a preference loss on the log-probabilities of responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from mindspeed_dpo.algorithms.beta_dpo import with_adapted_beta
from mindspeed_dpo.algorithms.cross_pair_values import CrossPairValues, cross_pair_values
from mindspeed_dpo.algorithms.logp_difference import logp_difference
from mindspeed_dpo.algorithms.objective import PairLosses, PairValues, PreferenceObjective
from mindspeed_dpo.algorithms.token_statistics import token_statistics
from mindspeed_dpo.algorithms.wpo import wpo_weights
from mindspeed_dpo.batches import PackedBatch
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.workers.criteria.criterion import Criterion, MicroBatchLosses
from mindspeed_dpo.workers.criteria.cross_pair_gather import gather_step_values
from mindspeed_dpo.workers.logprobs import kl_surrogate, response_logps
from mindspeed_dpo.workers.setup.objective_and_schedule import beta_of, objective_of
from mindspeed_dpo.workers.setup.worker_context import WorkerContext

MEAN_MARGIN = "usual_margin"
"""Key of the running mean of margins in the metadata of a checkpoint."""


class PreferenceCriterion(Criterion):
    """The preference loss of a policy."""

    def __init__(self, context: WorkerContext, role: RoleConfig) -> None:
        """Build the objective.

        Args:
            context: Context of this process.
            role: Settings of the actor.
        """
        self._context, self._role = context, role
        self._statistics = context.run.loop.log_token_statistics
        self._objective = objective_of(role)
        self._mean_margin = 0.0
        self._largest_logp_difference: Tensor | None = None

    @property
    @override
    def needs_step_outputs(self) -> bool:
        return self._role.loss.needs_step_logps

    @override
    def begin(self, iteration: int) -> None:
        beta = beta_of(self._role, iteration, self._context.run.loop.train_iters)
        self._objective = replace(self._objective, beta=beta)

    @override
    def of_step(
        self,
        batches: Sequence[PackedBatch],
        outputs: Sequence[Tensor] | None,
        num_pairs: int,
        *,
        is_training: bool,
    ) -> MicroBatchLosses:
        cross_pair = self._cross_pair(batches, outputs, num_pairs, adapt_beta=is_training)
        return partial(self._losses_and_metrics, cross_pair)

    @override
    def metrics(self) -> dict[str, float]:
        return {"beta": self._objective.beta}

    @override
    def take_largest_logp_difference(self) -> Tensor | float:
        largest, self._largest_logp_difference = self._largest_logp_difference, None
        return 0.0 if largest is None else largest

    @override
    def state(self) -> dict[str, Any]:
        return {MEAN_MARGIN: self._broadcast_mean_margin()}

    @override
    def restore(self, metadata: Mapping[str, Any]) -> None:
        self._mean_margin = metadata.get(MEAN_MARGIN, 0.0)

    def _broadcast_mean_margin(self) -> float:
        """Return the running mean of margins (beta-DPO) on every rank; only the last stage has it, rank 0 saves it."""
        if not self._role.loss.beta_dpo_alpha:
            return 0.0
        # The other processes add zeros to the bits, since a device may support no float64.
        value = torch.tensor(self._mean_margin if self._context.place.reports_metrics else 0.0, dtype=torch.float64)
        bits = value.view(torch.int64).to(self._context.device)
        dist.all_reduce(bits, dist.ReduceOp.SUM)
        return bits.cpu().view(torch.float64).item()

    def _cross_pair(
        self, batches: Sequence[PackedBatch], outputs: Sequence[Tensor] | None, num_pairs: int, *, adapt_beta: bool
    ) -> CrossPairValues | None:
        """Return what the losses need to know of the step's other pairs, and adapt this step's beta where wanted.

        None on all but the last stage, and where every loss depends on its own pair only.
        """
        loss = self._role.loss
        if not loss.is_grouped or not self._context.place.is_last_stage:
            return None
        values = gather_step_values(batches, outputs, num_pairs, loss.ld_alpha)
        if adapt_beta and loss.beta_dpo_alpha:
            assert isinstance(self._objective, PreferenceObjective)
            self._objective, self._mean_margin = with_adapted_beta(self._objective, values, self._mean_margin)
        return cross_pair_values(values, loss.dpo_loss_type, loss.loss_group_size)

    def _losses_and_metrics(
        self, cross_pair: CrossPairValues | None, batch: PackedBatch, columns: Tensor
    ) -> PairLosses:
        """Return the losses [P] of a micro-batch, each times its pair's weight, and its metrics."""
        loss = self._role.loss
        pairs = PairValues(
            logps=response_logps(batch, columns, loss.ld_alpha),
            lengths=batch.response_lengths,
            ref_logps=batch.ref_logps,
            weights=batch.weights,
            factors=batch.factors,
            wpo_weights=wpo_weights(batch, columns, clamp=loss.clamp_weighting) if loss.use_weighting else None,
            margins=batch.margins,
            cross_pair=cross_pair and cross_pair.of(batch.pair_ids),
            logp_weights=batch.logp_weights,
            kl_surrogate=kl_surrogate(batch, columns),
        )
        result = self._objective(pairs)
        if self._statistics:
            result.sums.merge(token_statistics(batch, columns))
        if batch.rollout_token_logps is not None:
            sums, largest = logp_difference(batch, columns)
            result.sums.merge(sums)
            earlier = self._largest_logp_difference
            self._largest_logp_difference = largest if earlier is None else torch.maximum(largest, earlier)
        return result

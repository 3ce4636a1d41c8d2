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

from mindspeed_dpo.algorithms.beta_dpo import MarginStatistics, beta_dpo_step
from mindspeed_dpo.algorithms.cross_pair_values import CrossPairValues, StepValues, cross_pair_values
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

MEAN_MARGIN, STD_OF_MARGINS = "usual_margin", "usual_margin_std"
"""Keys of the running statistics of margins (β-DPO) in the metadata of a checkpoint."""


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
        self._margins = MarginStatistics()
        self._selected = 1.0
        # Iteration and optimizer step within it.
        self._step = (-1, 0)
        self._largest_logp_difference: Tensor | None = None

    @property
    @override
    def needs_step_outputs(self) -> bool:
        return self._role.loss.needs_step_logps

    @override
    def begin(self, iteration: int) -> None:
        beta = beta_of(self._role, iteration, self._context.run.loop.train_iters)
        self._objective = replace(self._objective, beta=beta)
        last, number = self._step
        self._step = (iteration, number + 1 if iteration == last else 0)

    @override
    def of_step(
        self,
        batches: Sequence[PackedBatch],
        outputs: Sequence[Tensor] | None,
        num_pairs: int,
        *,
        is_training: bool,
    ) -> MicroBatchLosses:
        cross_pair = self._cross_pair(batches, outputs, num_pairs, is_training=is_training)
        return partial(self._losses_and_metrics, cross_pair)

    @override
    def metrics(self) -> dict[str, float]:
        of_filter = {
            "beta_dpo/margin_mean": self._margins.mean,
            "beta_dpo/margin_std": self._margins.std,
            "beta_dpo/selected": self._selected,
        }
        return {"beta": self._objective.beta, **(of_filter if self._role.loss.filters_pairs else {})}

    @override
    def take_largest_logp_difference(self) -> Tensor | float:
        largest, self._largest_logp_difference = self._largest_logp_difference, None
        return 0.0 if largest is None else largest

    @override
    def state(self) -> dict[str, Any]:
        mean, std = self._broadcast_margins()
        return {MEAN_MARGIN: mean, STD_OF_MARGINS: std}

    @override
    def restore(self, metadata: Mapping[str, Any]) -> None:
        self._margins = MarginStatistics(metadata.get(MEAN_MARGIN, 0.0), metadata.get(STD_OF_MARGINS, 0.0))

    def _broadcast_margins(self) -> tuple[float, float]:
        """Return the statistics of margins (β-DPO) on every rank; only the last stage has them, rank 0 saves them."""
        if not self._role.loss.follows_margins:
            return 0.0, 0.0
        # The other processes add zeros to the bits, since a device may support no float64.
        known = self._margins if self._context.place.reports_metrics else MarginStatistics()
        bits = torch.tensor([known.mean, known.std], dtype=torch.float64).view(torch.int64).to(self._context.device)
        dist.all_reduce(bits, dist.ReduceOp.SUM)
        mean, std = bits.cpu().view(torch.float64).tolist()
        return mean, std

    def _cross_pair(
        self, batches: Sequence[PackedBatch], outputs: Sequence[Tensor] | None, num_pairs: int, *, is_training: bool
    ) -> CrossPairValues | None:
        """Return what the losses need to know of the step's other pairs; β-DPO sets beta and selects where it trains.

        None on all but the last stage, and where every loss depends on its own pair only.
        """
        loss = self._role.loss
        if not loss.is_grouped or not self._context.place.is_last_stage:
            return None
        values = gather_step_values(batches, outputs, num_pairs, loss.ld_alpha)
        of_pairs = cross_pair_values(values, loss.dpo_loss_type, loss.loss_group_size)
        if not (is_training and loss.follows_margins):
            return of_pairs
        return replace(of_pairs, loss_factors=self._follow_margins(values))

    def _follow_margins(self, values: StepValues) -> Tensor | None:
        """Set this step's beta by β-DPO, and return the factors [N] of the losses if it filters pairs."""
        assert isinstance(self._objective, PreferenceObjective)
        seed = (self._context.run.loop.seed, *self._step)
        decided = beta_dpo_step(self._objective, values, self._margins, seed)
        self._objective, self._margins = decided.objective, decided.statistics
        if decided.loss_factors is not None:
            self._selected = float((decided.loss_factors > 0).float().mean())
        return decided.loss_factors

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

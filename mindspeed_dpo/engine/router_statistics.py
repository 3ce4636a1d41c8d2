"""Statistics of the routers of a model in a step: sums over all ranks, metrics, and the bias that follows the load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from mindspeed_dpo.models.moe.expert_load import RouterObserver, load_metrics
from mindspeed_dpo.models.moe.router_training import follow_load
from mindspeed_dpo.models.virtual_stages import PipelineStage
from mindspeed_dpo.parallel.rank_sums import sum_over_ranks


class StepRouting:
    """The routers of one rank's part of a trained model over a step; without experts every method does nothing."""

    def __init__(self, model: PipelineStage) -> None:
        """Observe a model, whose routers are set up for training by the first step."""
        self._model = model
        self._counts: Tensor | None = None

    @property
    def _observers(self) -> list[RouterObserver]:
        return [chunk.routing for chunk in self._model.chunks if chunk.routing is not None]

    def begin_step(self, num_pairs: int) -> None:
        """Forget the step before; `num_pairs` is the number of pairs of this one over all ranks."""
        self._counts = None
        for observer in self._observers:
            # Attached inside the model, these losses are not scaled by the schedule, but averaged over ranks.
            observer.begin_step(parallel_state.get_data_parallel_world_size(True) / num_pairs)

    def update_bias(self) -> None:
        """Let the correction bias follow the load of the step, where it is to; a collective of all ranks."""
        observers = self._observers
        if observers and observers[0].bias_update_rate:
            follow_load(self._model, self._global_counts(), observers[0].bias_update_rate)

    def metrics(self, num_pairs: int) -> dict[str, Tensor]:
        """Scalars by metric, float32 on the device, in the units of `metric_names`; a collective of all ranks.

        Args:
            num_pairs: Number of pairs of the step over all ranks.
        """
        observers = self._observers
        if not observers:
            return {}
        model, counts = observers[0].load.model, self._global_counts()
        num_layers = sum(map(model.is_moe_layer, range(model.num_layers)))
        sums = sum_over_ranks(self._local_sums())
        max_over_mean, idle_experts = load_metrics(counts, model)
        num_tokens = counts.sum() / model.moe_router_topk
        values = {
            "moe/load_max_over_mean": max_over_mean,
            "moe/idle_experts": idle_experts,
            "moe/router_entropy": sums[2] / num_tokens,
        }
        if observers[0].balance is not None:
            aux, z = sums[:2] / (num_pairs * num_layers)
            values |= {"moe/aux_loss": aux, "moe/z_loss": z}
            if observers[0].balance.settings.router_aux_loss_coef:
                values["moe/router_aux_loss"] = sums[3] / num_pairs
        return values

    def _local_sums(self) -> Tensor:
        """[4] float32 sums of this rank: balance loss, z-loss, entropy, pooled balance loss."""
        sums = torch.zeros(4, device=next(self._model.parameters()).device)
        for observer in self._observers:
            balance = observer.balance
            if balance is not None and balance.sums is not None:
                sums[:2] += balance.sums
            if balance is not None and balance.pooled_sum is not None:
                sums[3] += balance.pooled_sum
            if observer.load.entropy is not None:
                sums[2:3] += observer.load.entropy
        return sums

    def _global_counts(self) -> Tensor:
        """[layers, experts] int64 tokens of each expert over all ranks; a collective once in a step."""
        if self._counts is None:
            model = self._observers[0].load.model
            shape, device = (model.num_layers, model.num_experts or 0), next(self._model.parameters()).device
            counts = torch.zeros(shape, dtype=torch.int64, device=device)
            for observer in self._observers:
                if observer.load.counts is not None:
                    counts += observer.load.counts
            dist.all_reduce(counts, dist.ReduceOp.SUM)
            self._counts = counts
        return self._counts


def mean_values(of_steps: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Average scalars of several steps by metric, of any dtype and any unit; read from the device in one transfer."""
    if not of_steps or not of_steps[0]:
        return {}
    means = torch.stack([torch.stack([value.float() for value in step.values()]) for step in of_steps]).mean(0)
    return dict(zip(of_steps[0], means.tolist(), strict=True))

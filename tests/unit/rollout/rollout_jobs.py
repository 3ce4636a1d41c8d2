"""What the tests of the rollout share: tiny models as rollout models, and jobs for a pool of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.config.settings.generation import RolloutConfig
from mindspeed_dpo.parallel.expert_parallel import ExpertGroup
from mindspeed_dpo.parallel.tensor_parallel import TensorGroup
from mindspeed_dpo.rollout.decoder import RolloutModel
from mindspeed_dpo.rollout.generator import Generator
from mindspeed_dpo.rollout.layer_weights import placement_with
from mindspeed_dpo.rollout.mixture_policy import MixedModel
from mindspeed_dpo.rollout.paired_generation import PairedGenerator
from mindspeed_dpo.weights import open_weights

PROMPTS = [[5, 1, 0, 64], [7, 47, 2], [9, 9, 31, 4, 60, 3, 8, 1, 77, 12, 30], [11], [92, 3], [40, 41, 42, 43, 44, 45]]


def rollout_model(
    folder: Path,
    tp: TensorGroup | None = None,
    dtype: torch.dtype | None = None,
    experts: ExpertGroup | None = None,
    unused_experts: int = 0,
) -> RolloutModel:
    """This rank's share of a saved model; the bias of routers may keep the last experts from being chosen."""
    tp, experts = tp or TensorGroup(), experts or ExpertGroup()
    source = open_weights(folder)
    model = source.model_config()
    placement = placement_with(model, tp, experts)
    weights = {name: t if dtype is None else t.to(dtype) for name, t in source.local_tensors(model, placement)}
    for name, tensor in weights.items():
        if unused_experts and name.endswith("expert_bias"):
            tensor[-unused_experts:] = -100
    return RolloutModel(model, weights, tp, experts)


def settings(**changes: Any) -> RolloutConfig:
    """Few slots and rows, so that tiny calls refill and fill several tiles."""
    small = {"rollout_slots": 4, "decode_rows": 2, "temperature": 1.0}
    return RolloutConfig(**{**small, **changes})  # type: ignore[arg-type]


def tensors(prompts: list[list[int]]) -> list[Tensor]:
    return [torch.tensor(prompt, dtype=torch.int32) for prompt in prompts]


def rollout(
    model: RolloutModel,
    prompts: list[list[int]] = PROMPTS,
    numbers: list[int] | None = None,
    *,
    max_new_tokens: int = 12,
    stop_ids: frozenset[int] = frozenset({13, 29}),
    seed: int = 1,
    **changes: Any,
) -> RolloutBatch:
    """Generate responses to prompts with small settings."""
    generator = Generator(model, settings(**changes), max_new_tokens=max_new_tokens, stop_ids=stop_ids, seed=seed)
    numbers = list(range(len(prompts))) if numbers is None else numbers
    return generator.rollout(tensors(prompts), range(len(prompts)), numbers, version=0)


def shared_rollout(folder: Path, changes: dict[str, Any]) -> RolloutBatch:
    """The rollout of one tensor rank among all of the job."""
    tp = TensorGroup(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)
    return rollout(rollout_model(folder, tp), **changes)


def shared_logits(folder: Path, prompt: list[int]) -> Tensor:
    """Logits after a prompt, as one tensor rank sees them."""
    tp = TensorGroup(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)
    return rollout_model(folder, tp).prefill(torch.tensor(prompt))[1]


def paired_generator(policy: RolloutModel, reference: RolloutModel) -> PairedGenerator:
    """One response of the policy, and one of its mixture with the reference."""
    mixture = MixedModel(policy, reference, 0.5)
    limits: dict[str, Any] = {"max_new_tokens": 4, "stop_ids": frozenset({13, 29}), "seed": 1}
    return PairedGenerator.between(policy, mixture, settings(), **limits)


def replica_rollout(folder: Path, tp_size: int, shares: list[list[int]], **options: Any) -> RolloutBatch:
    """The responses of one of several replicas that together share the experts, to its share of the prompts."""
    policy, share = _of_replica(folder, tp_size, shares, options.pop("unused_experts", 0))
    return rollout(policy, [PROMPTS[number] for number in share], share, **options)


def replica_pairs(folder: Path, reference: Path, shares: list[list[int]]) -> RolloutBatch:
    """The same with two models, both with experts."""
    (policy, share), (other, _) = (_of_replica(weights, 1, shares) for weights in (folder, reference))
    prompts = tensors([PROMPTS[number] for number in share])
    return paired_generator(policy, other).rollout(prompts, share, share, version=0)


def _of_replica(
    folder: Path, tp_size: int, shares: list[list[int]], unused_experts: int = 0
) -> tuple[RolloutModel, list[int]]:
    rank, size = dist.get_rank(), dist.get_world_size()
    tp = TensorGroup()
    if tp_size > 1:
        groups = [dist.new_group(list(range(start, start + tp_size))) for start in range(0, size, tp_size)]
        tp = TensorGroup(rank % tp_size, tp_size, groups[rank // tp_size])
    experts = ExpertGroup(rank, size, dist.group.WORLD)
    model = rollout_model(folder, tp, experts=experts, unused_experts=unused_experts)
    return model, shares[rank // tp_size]

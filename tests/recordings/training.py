"""The optimisation of a recorded case in plain torch, in float32 or float64: no TRL, nothing of mindspeed_dpo.

* AdamW with decoupled decay; what is named `norm` or `bias` is not decayed.
* The rate of step t (from 0) is `lr · t/warmup` for t < warmup, then falls to 0 at `max_steps`: step 0 changes no
  weight.
* A step's gradient is the mean over its micro-batches, times `min(1, max_grad_norm / (norm + 1e-6))`; the logged
  `grad_norm` is the norm before that.
* Logged values are means over the micro-batches of a step; `num_tokens` is the running sum of the attention masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from tests.recordings.batches import MicroBatch, of_case
from tests.recordings.files import initial_weights, recording, role_folder, weights_in
from tests.recordings.forward import measure
from tests.recordings.llama import Model, config

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Replayed:
    """A run: what is logged of each step and each micro-batch, and its tensors."""

    steps: list[dict[str, float]]
    micro_batches: list[dict[str, Any]]
    gradient_step: int
    """Counted from 0: the first step with a loss other than 0."""
    gradient: Tensors
    """Of that step, clipped."""
    final: Tensors
    """The weights after the last step."""


@lru_cache(maxsize=32)
def replay_case(case: str, dtype: torch.dtype) -> Replayed:
    """The run of a case by its settings, in this precision."""
    return replay(recording(case), dtype)


def replay(case: dict[str, Any], dtype: torch.dtype) -> Replayed:
    """Run a case from the recorded initial weights."""
    hyper = case["hp"]
    sizes, frozen = config(role_folder(case, "policy")), weights_in(role_folder(case, "reference"))
    reference = Model({name: value.to(dtype) for name, value in frozen.items()}, sizes)
    policy = {name: value.to(dtype, copy=True).requires_grad_() for name, value in initial_weights(case).items()}
    optimizer = adamw(policy, hyper)
    batches, size = of_case(case), hyper["accumulation"]
    steps, records, gradients = [], [], []
    for step in range(hyper["max_steps"]):
        group = batches[step * size : (step + 1) * size]
        logged, recorded = _accumulate(group, Model(policy, sizes), reference, case["options"])
        norm = torch.nn.utils.clip_grad_norm_(policy.values(), hyper["max_grad_norm"], foreach=False)
        rate = learning_rate(hyper, step)
        tokens = (steps[-1]["num_tokens"] if steps else 0) + sum(int(batch.attention.sum()) for batch in group)
        steps.append({**logged, "grad_norm": norm.item(), "learning_rate": rate, "num_tokens": tokens})
        records += recorded
        if len(gradients) == 0 and logged["loss"] != 0:
            gradients.append((step, {name: value.grad.clone() for name, value in policy.items()}))
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    final = {name: value.detach() for name, value in policy.items()}
    return Replayed(steps, records, *gradients[0], final)


def learning_rate(hyper: dict[str, Any], step: int) -> float:
    """Of a step, counted from 0; the only schedule that is recorded is the linear one."""
    warmup, rate = hyper["warmup_steps"], float(hyper["lr"])
    if step < warmup:
        return rate * step / warmup
    return rate * (1 - (step - warmup) / (hyper["max_steps"] - warmup))


def _accumulate(
    group: list[MicroBatch], policy: Model, reference: Model, options: dict[str, Any]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Add up the gradients of a step; means of what is logged, and the record of each micro-batch."""
    logged, records = [], []
    for batch in group:
        loss, record, values = measure(batch, policy, reference, options)
        (loss / len(group)).backward()
        logged.append(values)
        records.append({"rows": batch.rows, **record})
    return {name: sum(one[name] for one in logged) / len(logged) for name in logged[0]}, records


def adamw(policy: Tensors, hyper: dict[str, Any]) -> torch.optim.AdamW:
    """The optimizer of a run; what is named `norm` or `bias` is not decayed."""
    plain = [name for name in policy if "norm" in name or "bias" in name]
    groups = [
        {
            "params": [value for name, value in policy.items() if name not in plain],
            "weight_decay": hyper["weight_decay"],
        },
        {"params": [policy[name] for name in plain], "weight_decay": 0.0},
    ]
    betas = (hyper["betas"][0], hyper["betas"][1])
    return torch.optim.AdamW(groups, lr=hyper["lr"], betas=betas, eps=hyper["eps"], foreach=False)

"""Loss and logged values of one micro-batch, as TRL 1.16 computes them, in the precision of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.recordings.batches import MicroBatch
from tests.recordings.experts import Routed, balance_loss
from tests.recordings.llama import Model, logits
from tests.recordings.losses import PAIR_LOSSES, Values

SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Scored:
    """What a model says of a micro-batch."""

    logits: Tensor
    """[sequences, tokens - 1, vocabulary]: of the token that follows."""
    token_logps: Tensor
    """[sequences, tokens - 1]: log-probability of the token that follows, 0 outside the response."""
    summed: tuple[Tensor, Tensor]
    """[pairs] each: the response's log-probability as it enters the loss, of chosen and rejected."""
    routed: list[Routed]
    """Of each layer with experts."""


def measure(
    batch: MicroBatch, policy: Model, reference: Model, options: dict[str, Any]
) -> tuple[Tensor, dict[str, Any], dict[str, float]]:
    """The loss with its graph; what is recorded of a micro-batch; its share of the logged values."""
    scored = _score(batch, policy, options["ld_alpha"])
    with torch.no_grad():
        other = _score(batch, reference, options["ld_alpha"])
    loss, logged = _loss(batch, scored, other, options), {}
    if options.get("router_aux_loss_coef"):  # TRL computes it only then
        aux_loss = balance_loss(scored.routed, batch.attention)
        loss = loss + options["router_aux_loss_coef"] * aux_loss
        logged["aux_loss"] = aux_loss.item()
    with torch.no_grad():
        logged |= {"loss": loss.item(), **_rewards(scored, other, options["beta"]), **_statistics(batch, scored)}
    columns = (*scored.summed, *other.summed)
    names = [prefix + side + "_logps" for prefix in ("", "ref_") for side in SIDES]
    record = {"loss": loss.item()} | {name: column.tolist() for name, column in zip(names, columns, strict=True)}
    return loss, record, logged


def _score(batch: MicroBatch, model: Model, ld_alpha: float | None) -> Scored:
    values, routed = logits(model, batch.ids)
    values = values[:, :-1]
    mask = batch.response[:, 1:]
    logps = values.log_softmax(-1).gather(-1, batch.ids[:, 1:, None])[..., 0] * mask
    weight = mask if ld_alpha is None else _ld_weights(mask, ld_alpha)
    # In float64 also where the rest is float32: a sum of some hundred nats would lose 1e-5, which `beta` multiplies.
    chosen, rejected = (logps * weight).sum(1, dtype=torch.float64).chunk(2)
    return Scored(values, logps, (chosen, rejected), routed)


def _ld_weights(mask: Tensor, ld_alpha: float) -> Tensor:
    """LD-DPO: tokens past the length of the pair's shorter response weigh alpha."""
    shorter = torch.minimum(*mask.sum(1).chunk(2)).repeat(2)[:, None]
    return torch.where(mask.cumsum(1) > shorter, ld_alpha, 1.0) * mask


def _loss(batch: MicroBatch, scored: Scored, reference: Scored, options: dict[str, Any]) -> Tensor:
    pairs = len(batch.rows)
    lengths = batch.response.sum(1).chunk(2)
    values = Values(scored.summed, reference.summed, (lengths[0], lengths[1]), options)
    mask = batch.response[:, 1:]
    weighting = _wpo_weights(mask, scored) if options["use_weighting"] else torch.ones(pairs)
    total = torch.zeros((), dtype=torch.float64)
    for kind, weight in zip(options["loss_type"], options["loss_weights"], strict=True):
        if kind == "sft":  # a mean over the tokens of the micro-batch, not over its pairs
            per_pair = (-scored.token_logps[:pairs].sum() / mask[:pairs].sum()).expand(pairs)
        else:
            per_pair = PAIR_LOSSES[kind](values)
        total = total + weight * (per_pair * weighting).mean()
    return total


@torch.no_grad()
def _wpo_weights(mask: Tensor, scored: Scored) -> Tensor:
    """WPO: how likely the policy itself is to give these responses; the product over a pair's two."""
    log_sum_squares = torch.logsumexp(2 * scored.logits, -1) - 2 * torch.logsumexp(scored.logits, -1)
    excess = ((scored.token_logps - log_sum_squares) * mask).sum(1) / mask.sum(1).clamp(min=1)
    chosen, rejected = excess.exp().chunk(2)
    return chosen * rejected


def _rewards(policy: Scored, reference: Scored, beta: float) -> dict[str, float]:
    rewards = [beta * (ours - theirs) for ours, theirs in zip(policy.summed, reference.summed, strict=True)]
    means = {f"rewards/{side}": reward.mean() for side, reward in zip(SIDES, rewards, strict=True)}
    means |= {f"logps/{side}": logps.mean() for side, logps in zip(SIDES, policy.summed, strict=True)}
    means["rewards/margins"] = (rewards[0] - rewards[1]).mean()
    means["rewards/accuracies"] = (rewards[0] > rewards[1]).double().mean()
    return {name: mean.item() for name, mean in means.items()}


def _statistics(batch: MicroBatch, scored: Scored) -> dict[str, float]:
    """Means over the response tokens of the micro-batch: of both responses, or of the one that is named."""
    pairs, mask = len(batch.rows), batch.response[:, 1:]
    log_probabilities = scored.logits.log_softmax(-1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
    is_best = (scored.logits.argmax(-1) == batch.ids[:, 1:]).double()
    mean_logit = scored.logits.mean(-1)
    masked = {
        "entropy": (entropy, mask),
        "mean_token_accuracy": (is_best[:pairs], mask[:pairs]),
        "logits/chosen": (mean_logit[:pairs], mask[:pairs]),
        "logits/rejected": (mean_logit[pairs:], mask[pairs:]),
    }
    return {name: ((value * count).sum() / count.sum()).item() for name, (value, count) in masked.items()}

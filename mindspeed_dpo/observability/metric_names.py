"""The table of every metric: name, unit, meaning, and how the progress line prints it.

A metric that is not in this table is an error, so a misspelled name cannot create a second curve.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    Attributes:
        unit: Unit of the value; "1" for a plain number or a share.
        help: One sentence: what is summed or counted, and over what it is averaged.
        legacy: Key under which MindSpeed-LLM printed the same quantity, where it differs.
        form: Format specification of the progress line.
    """

    unit: str
    help: str
    legacy: str | None = None
    form: str = ".4f"


EVAL_PREFIX = "eval/"
LOSS_TERM_PREFIX = "loss/"
CALIBRATION_PREFIX = "calibration/"
"""Metrics of single bins, of which a calibration error is made before it is logged."""

_SCIENTIFIC = ".3E"
_COUNT = ".0f"
_RATE = ".1f"

METRICS: dict[str, Metric] = {
    # Optimisation.
    "loss": Metric("1", "Mean total loss over the pairs of the step.", legacy="actor/pg_loss"),
    "grad_norm": Metric("1", "Global L2 norm of the gradient before clipping.", legacy="grad norm"),
    "learning_rate": Metric("1", "Learning rate this step used.", legacy="learning rate", form=_SCIENTIFIC),
    "beta": Metric("1/nat", "Coefficient of the KL penalty towards the reference."),
    "moe/aux_loss": Metric(
        "1", "Balance loss of the routers, mean over pairs and layers, without its coefficient; 1 is a balanced load."
    ),
    "moe/router_aux_loss": Metric(
        "1",
        "Balance loss of transformers and TRL, pooled over layers and responses of a pair; mean over pairs, without "
        "its coefficient; moe_router_topk is a balanced load.",
    ),
    "moe/z_loss": Metric("1", "z-loss of the routers, mean over pairs and layers, without its coefficient."),
    "moe/load_max_over_mean": Metric(
        "1", "Tokens of the busiest expert of a layer divided by the mean over its experts, mean over layers."
    ),
    "moe/idle_experts": Metric("1", "Share of experts that no token of the step has chosen, over all layers."),
    "moe/router_entropy": Metric("nat", "Mean entropy of the routers' scores of a token, over tokens and layers."),
    # Preferences.
    "rewards/chosen": Metric(
        "1",
        "Mean of beta times (policy - reference) log-probability of the chosen response; its score by a reward model.",
    ),
    "rewards/rejected": Metric("1", "The same for the rejected response."),
    "rewards/accuracies": Metric("1", "Share of pairs whose chosen reward is strictly greater; a tie counts 0."),
    "rewards/margins": Metric("1", "Mean of chosen reward minus rejected reward."),
    "rewards/brier": Metric(
        "1",
        "Mean of (1 - sigmoid(chosen score - rejected score))^2, the Brier score of the preferences that a reward "
        "model predicts; 0.25 is a coin.",
    ),
    "rewards/ece": Metric(
        "1",
        "Expected calibration error of the preferences that a reward model predicts, over all evaluated pairs in ten "
        "bins of the predicted probability.",
    ),
    "logps/chosen": Metric("nat", "Mean log-probability of the chosen response, summed over its tokens."),
    "logps/rejected": Metric("nat", "Mean log-probability of the rejected response, summed over its tokens."),
    "logits/chosen": Metric("1", "Mean logit over the vocabulary, then over chosen response tokens."),
    "logits/rejected": Metric("1", "Mean logit over the vocabulary, then over rejected response tokens."),
    "entropy": Metric("nat", "Mean entropy of the next token over the tokens of both responses."),
    "mean_token_accuracy": Metric("1", "Share of chosen response tokens that are the arg-max."),
    "nll": Metric("nat", "Mean negative log-probability of a chosen response token."),
    # Amounts and speed.
    "epoch": Metric("epochs", "Passes over the training rows so far."),
    "step": Metric("steps", "Optimizer steps so far.", form=_COUNT),
    "consumed_samples": Metric("pairs", "Pairs trained on so far.", legacy="consumed samples", form=_COUNT),
    "num_tokens": Metric(
        "tokens", "Input tokens of both responses so far, the prompt counted per response.", form=_COUNT
    ),
    "rollout_tokens_per_s": Metric(
        "tokens/s", "Sampled tokens of the step per second, from request to completion.", form=_RATE
    ),
    "tokens_computed": Metric("tokens", "Token rows an optimizer step really computed, padding included.", form=_COUNT),
    "micro_batches": Metric(
        "micro-batches", "Forward and backward passes of an optimizer step, over all replicas.", form=_RATE
    ),
    "micro_batch_fill": Metric("1", "Share of micro_batch_tokens that the passes filled, padding included."),
    "tokens_per_s": Metric(
        "tokens/s", "Input tokens of the step, prompt counted per response, per second.", form=_RATE
    ),
    "pairs_per_s": Metric("pairs/s", "Pairs of the step per second.", form=".2f"),
    "memory/peak_bytes": Metric(
        "bytes", "Most memory used so far by a process of the policy: of its device, on the CPU of all.", form=_COUNT
    ),
    "beta_dpo/margin_mean": Metric("1", "Running mean of the margins that β-DPO's filter compares a step with."),
    "beta_dpo/margin_std": Metric("1", "Their running standard deviation."),
    "beta_dpo/selected": Metric("1", "Share of the pairs of an optimizer step that β-DPO's filter trains on."),
    # Online: objective, selection, lengths.
    "objective/kl": Metric("nat", "Mean over responses of the summed (policy - reference) log-probability."),
    "objective/entropy": Metric("nat", "Mean over responses of the negative log-probability of their tokens."),
    "objective/non_score_reward": Metric("1", "Minus beta times objective/kl."),
    "objective/scores": Metric("reward", "Mean of the scores that decided the pairs."),
    "objective/scores_margin": Metric("reward", "Mean of chosen score minus rejected score."),
    "objective/rlhf_reward": Metric("reward", "objective/scores plus objective/non_score_reward."),
    "rollout/logp_diff/mean": Metric(
        "nat",
        "Mean over tokens of the absolute difference between the log-probabilities of rollout and policy, on the pairs "
        "of the first optimizer step; with rollout_staleness 1 the last update is part of it.",
    ),
    "rollout/logp_diff/max": Metric("nat", "Largest of these differences."),
    "rollout/logp_diff/k3": Metric(
        "nat", "Mean of r - 1 - log r over the same tokens, with r the policy's probability by the rollout's."
    ),
    "val/contain_eos_token": Metric("1", "Share of responses that end with an end token."),
    "win_rate": Metric(
        "1",
        "Share of held-out prompts on which the greedy response of the policy scores higher than that of the "
        "reference; ties count half.",
    ),
    "pairs/count": Metric("pairs", "Pairs trained on in the step.", form=_COUNT),
    "pairs/failed": Metric("1", "Share of pairs dropped because a response could not be scored."),
    "pairs/ties": Metric("1", "Share of pairs dropped because their scores are equal."),
    "pairs/dropped": Metric("1", "Share of pairs dropped for any reason."),
    "pairs/staleness": Metric("versions", "Mean lag of the policy version that sampled the pairs."),
    "reward/score/mean": Metric("reward", "Mean of the deciding scores, penalties included."),
    "reward/score/std": Metric("reward", "Standard deviation of the deciding scores."),
    "reward/score/max": Metric("reward", "Largest deciding score."),
    "reward/score/min": Metric("reward", "Smallest deciding score."),
    "judge/unparsed": Metric("1", "Share of the texts of judge_model without a verdict."),
    "judge/cut": Metric("1", "Share of the texts of judge_model that judge_max_new_tokens cut off."),
    "response_length/mean": Metric("tokens", "Mean length of a response."),
    "response_length/max": Metric("tokens", "Longest response.", form=_COUNT),
    "response_length/min": Metric("tokens", "Shortest response.", form=_COUNT),
    "prompt_length/mean": Metric("tokens", "Mean length of a prompt."),
    "prompt_length/max": Metric("tokens", "Longest prompt.", form=_COUNT),
    "prompt_length/min": Metric("tokens", "Shortest prompt.", form=_COUNT),
    # Durations.
    "timing/gen": Metric("s", "Sampling."),
    "timing/ref": Metric("s", "Reference log-probabilities."),
    "timing/adv": Metric("s", "Reward scoring, with the reference passes that run beside it."),
    "timing/sync": Metric("s", "Moving weights to the rollout."),
    "timing/update_actor": Metric("s", "Forward, backward and optimizer."),
    "timing/eval": Metric("s", "Evaluation."),
    "timing/all": Metric("s", "The complete step."),
}


def eval_set_metrics(name: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """Rename the metrics of one evaluation set, for runs with several sets: `eval/<set>/<name>`."""
    return {f"{EVAL_PREFIX}{name}/{key.removeprefix(EVAL_PREFIX)}": value for key, value in metrics.items()}


def metric(name: str) -> Metric:
    """Return the row of a metric; `eval/<name>`, `eval/<set>/<name>` and `loss/<term>` use the row of their kind.

    Raises:
        ValueError: The name is not in the table; the message suggests the closest one.
    """
    base = name.removeprefix(EVAL_PREFIX)
    candidates = [base] if base == name else [base, base.partition("/")[2]]
    for candidate in candidates:
        if candidate.startswith(LOSS_TERM_PREFIX) and candidate != LOSS_TERM_PREFIX:
            term = candidate.removeprefix(LOSS_TERM_PREFIX)
            return Metric("1", f"Mean of the loss term {term}, before its coefficient.")
        if candidate.startswith(CALIBRATION_PREFIX):
            return Metric("1", "Mean of right or not, less the predicted probability, of the pairs in a bin.")
        if candidate in METRICS:
            return METRICS[candidate]
    nearest = difflib.get_close_matches(base, METRICS, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    raise ValueError(f"metric {name!r} is not in the table of observability/metric_names.py{hint}")

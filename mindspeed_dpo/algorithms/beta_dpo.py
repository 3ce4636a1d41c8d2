"""β-DPO: beta follows the mean margin of each batch (Wu et al. 2024, arXiv:2407.08639)."""

from __future__ import annotations

from dataclasses import replace

from mindspeed_dpo.algorithms.cross_pair_values import StepValues
from mindspeed_dpo.algorithms.losses.pair_terms import margin
from mindspeed_dpo.algorithms.objective import PreferenceObjective
from mindspeed_dpo.device.ops import total


def adapted_beta(beta: float, values: StepValues, ema: float, *, alpha: float, momentum: float) -> tuple[float, float]:
    """Adapt beta to a batch, equation 8 of Wu et al. 2024 (β-DPO, arXiv:2407.08639), at least a hundredth of `beta`.

    With M the mean over the batch of beta times the margin of log-ratios: [1 + alpha (M - ema)] beta.

    Args:
        beta: Beta of a batch whose M equals the running mean, per nat.
        values: Values of the entire step.
        ema: Running mean of M over the earlier batches.
        alpha: Strength of the adaptation.
        momentum: Weight of the earlier batches in the running mean (equation 9).

    Returns:
        The batch's beta, and the updated running mean.
    """
    assert values.logps is not None and values.ref_logps is not None, "beta follows log-probabilities"
    margins = margin(values.logps) - margin(values.ref_logps)
    mean = beta * (total(margins) / len(margins)).item()
    after = momentum * ema + (1 - momentum) * mean
    return beta * max(1 + alpha * (mean - ema), 0.01), after


def with_adapted_beta(
    objective: PreferenceObjective, values: StepValues, ema: float
) -> tuple[PreferenceObjective, float]:
    """Return the objective with beta adapted to the batch, and the updated running mean of margins (β-DPO)."""
    loss = objective.settings
    beta, after = adapted_beta(objective.beta, values, ema, alpha=loss.beta_dpo_alpha, momentum=loss.beta_dpo_momentum)
    return replace(objective, beta=beta), after

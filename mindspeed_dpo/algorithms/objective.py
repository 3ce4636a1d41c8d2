"""The objective of preference training: a weighted sum of pair losses.

It is called once per micro-batch with log-probabilities; the engine divides the summed losses by the number of pairs of
the entire step. Nothing here averages, so the result is independent of how a step is split. `config` validates which
settings can be combined.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from mindspeed_dpo.algorithms.cross_pair_values import CrossPairValues, nll_scale
from mindspeed_dpo.algorithms.losses.aot import aot_loss, aot_unpaired_loss
from mindspeed_dpo.algorithms.losses.apo import apo_down_loss, apo_zero_loss
from mindspeed_dpo.algorithms.losses.bco import bco_pair_loss
from mindspeed_dpo.algorithms.losses.discopop import discopop_loss
from mindspeed_dpo.algorithms.losses.exo import exo_pair_loss
from mindspeed_dpo.algorithms.losses.f_divergence import divergence_scores
from mindspeed_dpo.algorithms.losses.hinge import hinge_loss
from mindspeed_dpo.algorithms.losses.ipo import ipo_loss
from mindspeed_dpo.algorithms.losses.nca import nca_pair_loss
from mindspeed_dpo.algorithms.losses.pair_terms import PairLoss, PairTerms, log_ratios, per_token
from mindspeed_dpo.algorithms.losses.robust import robust_loss
from mindspeed_dpo.algorithms.losses.rpo import rpo_bwd_kl_loss, rpo_fwd_kl_loss, rpo_sq_loss
from mindspeed_dpo.algorithms.losses.sigmoid import sigmoid_loss, sigmoid_norm_loss
from mindspeed_dpo.algorithms.losses.simpo_cpo_orpo_sft import cpo_loss, orpo_loss, sft_loss, simpo_loss
from mindspeed_dpo.algorithms.losses.sppo import sppo_hard_loss
from mindspeed_dpo.algorithms.preference_metrics import implicit_rewards, preference_metrics
from mindspeed_dpo.config.settings.loss import LIKELIHOOD_LOSSES, LossConfig
from mindspeed_dpo.observability.metric_sums import MetricSums

PAIR_LOSSES: dict[str, PairLoss] = {
    "sigmoid": sigmoid_loss,
    "hinge": hinge_loss,
    "ipo": ipo_loss,
    "sigmoid_norm": sigmoid_norm_loss,
    "robust": robust_loss,
    "exo_pair": exo_pair_loss,
    "nca_pair": nca_pair_loss,
    "bco_pair": bco_pair_loss,
    "sppo_hard": sppo_hard_loss,
    "aot": aot_loss,
    "aot_unpaired": aot_unpaired_loss,
    "apo_zero": apo_zero_loss,
    "apo_down": apo_down_loss,
    "discopop": discopop_loss,
    "rpo_bwd_kl": rpo_bwd_kl_loss,
    "rpo_fwd_kl": rpo_fwd_kl_loss,
    "rpo_sq": rpo_sq_loss,
    "sft": sft_loss,
    "simpo": simpo_loss,
    "cpo": cpo_loss,
    "orpo": orpo_loss,
}
"""Losses by their name in `dpo_loss_type`. `config.settings.loss` lists the same names and the settings each reads."""
PREF_FTX, XPO = "pref_ftx", "xpo"


@dataclass(frozen=True)
class PairValues:
    """Inputs of the objective for P pairs.

    Example: one pair, trained on as it is.

        PairValues(logps=tensor([[-20.0, -31.0]]), lengths=tensor([[10, 12]]), ref_logps=tensor([[-22.0, -30.0]]))

    Attributes:
        logps: [P, 2] float32 or float64, summed response log-probabilities of the policy, in nats; column 0 is chosen.
        lengths: [P, 2] integers, response tokens.
        ref_logps: [P, 2] float32 or float64, the same as `logps` from the frozen reference; gets no gradient.
        weights: [P] float, 1 for a pair and 0 for padding, or None for all 1. A pair of weight 0 has loss and gradient
            0 and is not counted, even if its log-probabilities are not finite.
        factors: [P] float32 factors of each pair's loss (`weight_column`), or None for all 1.
        wpo_weights: [P] float32 WPO weights, how likely the policy is to generate each pair, or None for all 1.
        margins: [P] float32 margins as the data or the reward gives them (`margin_column`); times `margin_scale` in
            units of beta times nats. None for all 0, with which the losses rpo_* cannot be computed.
        cross_pair: Values that depend on the other pairs of the step, or None where these pairs are the step.
        logp_weights: [P, 2] float32 factors of each response's log-probability in a term beside the pair's loss; for
            XPO 1 for the reference's response and 0 otherwise.
        kl_surrogate: [P, K] of `workers.logprobs.kl_surrogate`, with gradient; Nash-MD needs it.
    """

    logps: Tensor
    lengths: Tensor
    ref_logps: Tensor
    weights: Tensor | None = None
    factors: Tensor | None = None
    wpo_weights: Tensor | None = None
    margins: Tensor | None = None
    cross_pair: CrossPairValues | None = None
    logp_weights: Tensor | None = None
    kl_surrogate: Tensor | None = None


@dataclass(frozen=True)
class PairLosses:
    """Result of the objective for P pairs.

    Example: the pair of `PairValues`, whose reward margin is 0.3.

        PairLosses(losses=tensor([0.554]), sums=MetricSums(...))

    Attributes:
        losses: [P] loss of each pair times its weight, with gradient.
        sums: Metrics summed over the pairs, each with its weight, without gradient.
        margins: [P] reward margin of each pair, without gradient; None of objectives that no evaluation uses.
    """

    losses: Tensor
    sums: MetricSums
    margins: Tensor | None = None


@dataclass(frozen=True)
class PreferenceObjective:
    """A weighted sum of pair losses.

    Example:
        PreferenceObjective(LossConfig(dpo_loss_type=("sigmoid",)), beta=0.1)

    Attributes:
        settings: Validated settings.
        beta: Strength of the regularisation towards the reference in this step, per nat.
        xpo_alpha: Weight of XPO's term, the log-probability of the reference's response, algorithm 1 of Xie et al. 2024
            (arXiv:2405.21046), per nat; None without one.
    """

    settings: LossConfig = field(default_factory=LossConfig)
    beta: float = 0.1
    xpo_alpha: float | None = None

    @cached_property
    def coefficients(self) -> dict[str, float]:
        """Components of the loss and their factors."""
        types = self.settings.dpo_loss_type
        terms = dict(zip(types, self.settings.loss_weights or (1.0,) * len(types), strict=True))
        ftx = {PREF_FTX: self.settings.pref_ftx} if self.settings.pref_ftx else {}
        return {**terms, **ftx, **({XPO: self.xpo_alpha} if self.xpo_alpha is not None else {})}

    @property
    def _is_composed(self) -> bool:
        return len(self.coefficients) > 1

    def __call__(self, pairs: PairValues) -> PairLosses:
        """Compute the losses and metric sums of P pairs.

        Raises:
            ValueError: Shapes or dtypes do not fit.
        """
        logps = pairs.logps
        weights = torch.ones_like(logps[:, 0]) if pairs.weights is None else pairs.weights.to(logps.dtype)
        if weights.shape != logps.shape[:1]:
            raise ValueError(f"weights must be [{len(logps)}], one per pair, got {list(weights.shape)}")
        logps, ref_logps = _blank_padding(logps, pairs.ref_logps.detach(), weights)
        ratios = log_ratios(logps, ref_logps)
        terms = self._terms(logps, ratios, pairs)
        losses = sum((factor * terms[name] for name, factor in self.coefficients.items()), torch.zeros_like(weights))
        of_filter = None if pairs.cross_pair is None else pairs.cross_pair.loss_factors
        for factors in (pairs.factors, of_filter):
            losses = losses if factors is None else losses * factors
        rewards = implicit_rewards(self.settings, self.beta, logps, ratios, pairs.lengths)
        components = terms if self._is_composed else {}
        sums = preference_metrics(losses, components, rewards, logps, weights)
        return PairLosses(losses * weights, sums, (rewards[:, 0] - rewards[:, 1]).detach())

    def _terms(self, logps: Tensor, ratios: Tensor, pairs: PairValues) -> dict[str, Tensor]:
        """Compute each component of the loss, [P], before its factor."""
        settings = self.settings
        targets = None if pairs.margins is None else settings.margin_scale * pairs.margins
        pair_terms = PairTerms(
            logps=logps,
            ratios=ratios,
            scores=self._scores(ratios, targets),
            lengths=pairs.lengths,
            nll=self._nll(logps, pairs),
            beta=self.beta,
            partners={} if pairs.cross_pair is None else pairs.cross_pair.partners,
            targets=targets,
        )
        terms = {}
        for name in settings.dpo_loss_type:
            term = PAIR_LOSSES[name](pair_terms, settings)
            terms[name] = term if pairs.wpo_weights is None or name in LIKELIHOOD_LOSSES else term * pairs.wpo_weights
        if settings.pref_ftx:
            terms[PREF_FTX] = -per_token(logps, pairs.lengths)[:, 0]
        if self.xpo_alpha is not None:
            assert pairs.logp_weights is not None, "XPO needs to know which response is the reference's"
            terms[XPO] = (logps * pairs.logp_weights).sum(1)
        return terms

    def _scores(self, ratios: Tensor, margins: Tensor | None) -> Tensor:
        """Apply the f-divergence to log-ratios [P, 2] and subtract the pair's margin from its chosen response."""
        scores = divergence_scores(ratios, self.settings.f_divergence_type, self.settings.f_alpha_divergence_coef)
        if margins is None:
            return scores
        return scores - torch.stack([margins / self.beta, torch.zeros_like(margins)], 1)

    @staticmethod
    def _nll(logps: Tensor, pairs: PairValues) -> Tensor:
        """Return the chosen response's negative log-probability [P], scaled to a mean over the tokens of a group."""
        chosen = pairs.lengths[:, 0].to(logps.dtype)
        scale = nll_scale(chosen, len(chosen)) if pairs.cross_pair is None else pairs.cross_pair.nll_scale
        return -logps[:, 0] * scale


def _blank_padding(logps: Tensor, ref_logps: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Zero log-probabilities where the weight is 0: 0 * NaN would be NaN, in the gradient too."""
    real = (weights != 0).unsqueeze(1)
    return torch.where(real, logps, torch.zeros_like(logps)), torch.where(real, ref_logps, torch.zeros_like(ref_logps))

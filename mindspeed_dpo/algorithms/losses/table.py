"""The table of selectable pair losses. A new loss is a file beside this one and a row here."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from mindspeed_dpo.algorithms.losses.apo import apo_down_loss, apo_zero_loss
from mindspeed_dpo.algorithms.losses.bco import bco_pair_loss
from mindspeed_dpo.algorithms.losses.exo import exo_pair_loss
from mindspeed_dpo.algorithms.losses.hinge import hinge_loss
from mindspeed_dpo.algorithms.losses.ipo import ipo_loss
from mindspeed_dpo.algorithms.losses.nca import nca_pair_loss
from mindspeed_dpo.algorithms.losses.robust import robust_loss
from mindspeed_dpo.algorithms.losses.sigmoid import sigmoid_loss, sigmoid_norm_loss
from mindspeed_dpo.algorithms.losses.sppo import sppo_hard_loss


@dataclass(frozen=True)
class PairLoss:
    """One selectable loss.

    Attributes:
        function: Called with policy_logps [P, 2], ref_logps [P, 2] and, by keyword, beta and what `reads` names;
            returns [P].
        reads: What the loss reads besides beta: "lengths" and names of settings. A setting that is not read must stay
            at its default, so that no setting is silently without effect.
        needs: Settings that must be above 0.
    """

    function: Callable[..., Tensor]
    reads: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()


_LENGTHS = frozenset({"lengths"})
_SMOOTHING = frozenset({"label_smoothing"})

PAIR_LOSSES: dict[str, PairLoss] = {
    "sigmoid": PairLoss(sigmoid_loss, _SMOOTHING),
    "hinge": PairLoss(hinge_loss),
    "ipo": PairLoss(ipo_loss, _LENGTHS | {"ipo_normalize"}),
    "sigmoid_norm": PairLoss(sigmoid_norm_loss, _LENGTHS),
    "robust": PairLoss(robust_loss, _SMOOTHING),
    "exo_pair": PairLoss(exo_pair_loss, _SMOOTHING, needs=_SMOOTHING),
    "nca_pair": PairLoss(nca_pair_loss),
    "bco_pair": PairLoss(bco_pair_loss),
    "sppo_hard": PairLoss(sppo_hard_loss),
    "apo_zero": PairLoss(apo_zero_loss),
    "apo_down": PairLoss(apo_down_loss),
}


def pair_loss(name: str) -> PairLoss:
    """The loss of that name.

    Raises:
        ValueError: There is none; the message lists all and the nearest.
    """
    if name in PAIR_LOSSES:
        return PAIR_LOSSES[name]
    nearest = difflib.get_close_matches(name, PAIR_LOSSES, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    raise ValueError(f"dpo_loss_type={name!r} is not known: choose one of {', '.join(PAIR_LOSSES)}{hint}")

"""The table of selectable pair losses. A new loss is a file beside this one and a row here."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from mindspeed_dpo.algorithms.losses.hinge import hinge_loss
from mindspeed_dpo.algorithms.losses.ipo import ipo_loss
from mindspeed_dpo.algorithms.losses.sigmoid import sigmoid_loss


@dataclass(frozen=True)
class PairLoss:
    """One selectable loss.

    Attributes:
        function: Called with policy_logps [P, 2], ref_logps [P, 2] and, by keyword, beta and what `reads` names;
            returns [P].
        reads: What the loss reads besides beta: "lengths" and names of settings. A setting that is not read must stay
            at its default, so that no setting is silently without effect.
    """

    function: Callable[..., Tensor]
    reads: frozenset[str] = frozenset()


PAIR_LOSSES: dict[str, PairLoss] = {
    "sigmoid": PairLoss(sigmoid_loss, frozenset({"label_smoothing"})),
    "hinge": PairLoss(hinge_loss),
    "ipo": PairLoss(ipo_loss, frozenset({"lengths"})),
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

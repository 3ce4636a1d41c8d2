"""The table of selectable pair losses. A new loss is a file beside this one, a row here and its name in `config`.

What a loss reads is what its function takes, by name; the objective has all of it at hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import Tensor

from mindspeed_dpo.algorithms.losses.aot import aot_loss, aot_unpaired_loss
from mindspeed_dpo.algorithms.losses.apo import apo_down_loss, apo_zero_loss
from mindspeed_dpo.algorithms.losses.bco import bco_pair_loss
from mindspeed_dpo.algorithms.losses.discopop import discopop_loss
from mindspeed_dpo.algorithms.losses.exo import exo_pair_loss
from mindspeed_dpo.algorithms.losses.hinge import hinge_loss
from mindspeed_dpo.algorithms.losses.ipo import ipo_loss
from mindspeed_dpo.algorithms.losses.likelihood import cpo_loss, orpo_loss, sft_loss, simpo_loss
from mindspeed_dpo.algorithms.losses.nca import nca_pair_loss
from mindspeed_dpo.algorithms.losses.robust import robust_loss
from mindspeed_dpo.algorithms.losses.sigmoid import sigmoid_loss, sigmoid_norm_loss
from mindspeed_dpo.algorithms.losses.sppo import sppo_hard_loss

PairLoss = Callable[..., Tensor]
"""Called by keyword with what it takes; returns a loss per pair, [P]."""

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
    "sft": sft_loss,
    "simpo": simpo_loss,
    "cpo": cpo_loss,
    "orpo": orpo_loss,
}


def reads(name: str) -> tuple[str, ...]:
    """What the loss of that name takes, in order."""
    return tuple(inspect.signature(PAIR_LOSSES[name]).parameters)

"""One file per pair loss, and the table they are chosen from."""

from mindspeed_dpo.algorithms.losses.hinge import hinge_loss
from mindspeed_dpo.algorithms.losses.ipo import ipo_loss
from mindspeed_dpo.algorithms.losses.sigmoid import sigmoid_loss
from mindspeed_dpo.algorithms.losses.table import PAIR_LOSSES, PairLoss, pair_loss

__all__ = ["PAIR_LOSSES", "PairLoss", "hinge_loss", "ipo_loss", "pair_loss", "sigmoid_loss"]

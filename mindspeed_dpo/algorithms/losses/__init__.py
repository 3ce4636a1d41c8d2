"""One file per pair loss, and the table they are chosen from."""

from mindspeed_dpo.algorithms.losses.table import PAIR_LOSSES, PairLoss, reads

__all__ = ["PAIR_LOSSES", "PairLoss", "reads"]

"""One module per pair loss, all with the signature `PairLoss`; `objective.PAIR_LOSSES` names them.

Weighted sums of losses, weights of the pairs and metrics are left to `objective`.
"""

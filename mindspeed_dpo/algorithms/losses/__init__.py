"""One module per pair loss, all with the signature `PairLoss`; `objective.PAIR_LOSSES` names them."""

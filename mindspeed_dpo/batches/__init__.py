"""The few typed batches that travel between rooms. Tokens are flat, the pair is an axis.

Padding belongs to a kernel, not to the data, so nothing here is padded. Every split (data-parallel
rank, micro-batch, shuffle) selects prompts, hence the responses of one prompt cannot part.
Letters: P prompts, K responses of each (K = 2 for pairs: 0 is chosen, 1 is rejected).
"""

from mindspeed_dpo.batches.packed import PackedBatch
from mindspeed_dpo.batches.preference import PreferenceBatch
from mindspeed_dpo.batches.rollout import RolloutBatch, side_by_side
from mindspeed_dpo.batches.row_part import RowPart

__all__ = ["PackedBatch", "PreferenceBatch", "RolloutBatch", "RowPart", "side_by_side"]

"""Typed batches that are passed between packages and processes: preference pairs, rollouts, packed rows.

Tokens are stored ragged, as flat tensors with lengths; padding is left to kernels. Every split (data-parallel rank,
micro-batch, shuffle) selects prompts, so the responses to one prompt always stay together. How rows are packed is left
to `data.batching`, how they are computed to `models`.

Notation: P prompts, K responses to each (K = 2 for pairs: 0 is chosen, 1 is rejected), R response tokens in all.
"""

from mindspeed_dpo.batches.context_parallel_slice import RowPart
from mindspeed_dpo.batches.packed import PackedBatch
from mindspeed_dpo.batches.preference import PreferenceBatch
from mindspeed_dpo.batches.rollout import RolloutBatch, concat_responses

__all__ = ["PackedBatch", "PreferenceBatch", "RolloutBatch", "RowPart", "concat_responses"]

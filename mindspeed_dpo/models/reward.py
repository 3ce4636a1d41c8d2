"""The reward model: a decoder with a scalar score head on its last stage, read at the last token of each response."""

from __future__ import annotations

import torch
from megatron.core.tensor_parallel import (
    reduce_from_tensor_model_parallel_region,
    scatter_to_tensor_model_parallel_region,
    set_tensor_model_parallel_attributes,
)
from torch import Tensor, nn

from mindspeed_dpo.batches import PackedBatch
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.models.decoder_stage import DecoderStage, mark_tensor_parallel
from mindspeed_dpo.models.layer_spec import Execution


class ScoreHead(nn.Module):
    """The score hidden . weight + bias, in float32 for any model dtype, so that close scores do not round to a tie.

    The weight [1, h / tp] is split along its input, as MindSpeed-LLM stores it; the bias [1] is replicated.
    """

    def __init__(self, model: ModelConfig, execution: Execution) -> None:
        super().__init__()
        device = "cpu" if execution.on_cpu else torch.cuda.current_device()
        share = model.hidden_size // execution.topology.tp
        self.weight = nn.Parameter(torch.empty(1, share, dtype=torch.float32, device=device))
        self.bias = nn.Parameter(torch.zeros(1, dtype=torch.float32, device=device))
        set_tensor_model_parallel_attributes(self.weight, True, 1, 1)
        if execution.random_init:
            nn.init.normal_(self.weight, std=model.init_method_std)

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute the score of each row.

        Args:
            hidden: [N, h] hidden states in any float dtype, equal on all tensor-parallel ranks.

        Returns:
            [N] float32 scores, equal on all tensor-parallel ranks.
        """
        shard = scatter_to_tensor_model_parallel_region(hidden.float())
        scores: Tensor = reduce_from_tensor_model_parallel_region(shard @ self.weight.t())
        return scores[:, 0] + self.bias


class RewardModel(DecoderStage):
    """One pipeline stage, or virtual stage, of a reward model."""

    def __init__(
        self, model: ModelConfig, execution: Execution, *, chunk: int = 0, no_post_layer_norm: bool = False
    ) -> None:
        """Build this rank's stage; parameters are uninitialised unless `execution.random_init`.

        Args:
            model: The architecture; tied embeddings make no difference, because there is no output layer.
            execution: Parallelism, dtype and recomputation.
            chunk: Index of the virtual stage on this rank.
            no_post_layer_norm: Compute scores from the hidden states of the last layer without the final norm.
        """
        super().__init__(model, execution, chunk=chunk, final_norm=not no_post_layer_norm)
        self.share_embeddings_and_output_weights = False
        if self.post_process:
            self.rm_head = ScoreHead(model, execution)
        mark_tensor_parallel(self)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Compute the score of each response of a packed row.

        Args:
            batch: One micro-batch; its length as in `PolicyModel`.

        Returns:
            On the last stage [P, K] float32, the score at the last token of each response, equal on all ranks of the
            stage; on other stages hidden states [T / cp(/tp), 1, h].
        """
        hidden = self._decode(batch)
        if not self.post_process:
            return hidden
        return self._scores(batch, self._gather(hidden)).view(batch.response_lengths.shape)

    def _scores(self, batch: PackedBatch, hidden: Tensor) -> Tensor:
        """Compute scores [P * K]; a response that ends on another context-parallel rank has the score of that rank."""
        if self.context is None or batch.part is None:
            scores: Tensor = self.rm_head(hidden.index_select(0, batch.last_rows))
            return scores
        rows, here = batch.part.local_rows(batch.last_rows)
        return self.context.sum(self.rm_head(hidden.index_select(0, rows)).where(here, 0.0))

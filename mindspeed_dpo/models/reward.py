"""The reward model: a decoder with a scalar score head on its last stage, read at the last token of each response."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import (
    reduce_from_tensor_model_parallel_region,
    scatter_to_tensor_model_parallel_region,
    set_tensor_model_parallel_attributes,
)
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor, nn

from mindspeed_dpo.batches import PackedBatch
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.models.decoder_stage import DecoderStage, mark_tensor_parallel
from mindspeed_dpo.models.layer_spec import Execution

HEAD_PARAMETERS = ("rm_head.weight", "rm_head.bias")
"""Names of the parameters of the score head in a reward model."""


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

    def initialise(self, std: float, seed: int) -> None:
        """Initialise as transformers does, normal with mean 0 and no bias, whatever the parallel layout.

        Args:
            std: Standard deviation, `initializer_range` of transformers.
            seed: Seed of the run.
        """
        size = parallel_state.get_tensor_model_parallel_world_size() * self.weight.shape[1]
        generator = torch.Generator().manual_seed(seed)
        self.load(torch.empty(1, size).normal_(0.0, std, generator=generator))

    def load(self, complete: Tensor) -> None:
        """Copy this rank's shard of the complete weight [1, h] of any float dtype; the bias becomes 0."""
        rank, share = parallel_state.get_tensor_model_parallel_rank(), self.weight.shape[1]
        with torch.no_grad():
            self.weight.copy_(complete[:, rank * share : (rank + 1) * share])
            self.bias.zero_()

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Describe the parameters for a distributed checkpoint: the weight is split along its input."""
        tensors = self.state_dict(prefix="", keep_vars=True)
        described: dict[str, Any] = make_sharded_tensors_for_checkpoint(tensors, prefix, {"weight": 1}, sharded_offsets)
        return described

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

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Describe the parameters for a checkpoint; the base class, a language model, requires an output layer."""
        described: dict[str, Any] = MegatronModule.sharded_state_dict(
            self, prefix, sharded_offsets, self._checkpoint_metadata(metadata)
        )
        return described

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


def score_head(stage: nn.Module) -> ScoreHead | None:
    """Return the score head of a pipeline stage; None where the stage, or the model, has none."""
    head = getattr(stage, "rm_head", None)
    return head if isinstance(head, ScoreHead) else None

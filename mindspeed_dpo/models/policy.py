"""The language model that scores responses: embedding, decoder, and the log-probability head on the last stage.

It stands on megatron-core's blocks; the pipeline schedule, the data-parallel wrapper, the optimizer and the checkpoints
of megatron-core treat it as any model of theirs. Parameter names are those of its GPT model.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    gather_from_sequence_parallel_region,
    set_tensor_model_parallel_attributes,
)
from megatron.core.transformer.enums import ModelType
from megatron.core.transformer.transformer_block import TransformerBlock
from torch import Tensor, nn

from mindspeed_dpo.batches import PackedBatch
from mindspeed_dpo.config.model import ModelConfig
from mindspeed_dpo.models.head import LogProbHead, VocabShard
from mindspeed_dpo.models.layers import SegmentParams
from mindspeed_dpo.models.rotary import amplitude, angles, inverse_frequencies
from mindspeed_dpo.models.spec import Execution, block_spec, transformer_config


class PolicyModel(LanguageModule):
    """One pipeline stage of the model."""

    def __init__(self, model: ModelConfig, execution: Execution, statistics: bool = False) -> None:
        """Build this rank's stage; parameters are left for loading unless `execution.initialise`.

        Args:
            model: The architecture.
            execution: How it runs.
            statistics: Whether the head also returns token statistics.
        """
        super().__init__(config=transformer_config(model, execution))
        self.model_type = ModelType.encoder_or_decoder
        self.pre_process = parallel_state.is_pipeline_first_stage()
        self.post_process = parallel_state.is_pipeline_last_stage()
        self.share_embeddings_and_output_weights = not model.untie_embeddings_and_output_weights
        self.statistics = statistics
        self.shard = _vocab_shard(model, execution.topology.tp)
        # Not a buffer: casting the module to a low precision must not round the frequencies.
        self.frequencies, self.amplitude = inverse_frequencies(model), amplitude(model)
        if self.pre_process:
            self.embedding = LanguageModelEmbedding(
                self.config, model.padded_vocab(execution.topology.tp), model.max_position_embeddings, "none"
            )
        self.decoder = TransformerBlock(
            self.config, block_spec(self.config), pre_process=self.pre_process, post_process=self.post_process
        )
        if self.post_process:
            self.output_layer = self._head(model, execution)
        _mark_tensor_parallel(self)
        if self.pre_process or self.post_process:
            self.setup_embeddings_and_output_layer()

    def _head(self, model: ModelConfig, execution: Execution) -> LogProbHead:
        return LogProbHead(
            model.hidden_size,
            model.padded_vocab(execution.topology.tp),
            config=self.config,
            init_method=self.config.init_method,
            bias=False,
            skip_weight_param_allocation=self.pre_process and self.share_embeddings_and_output_weights,
        )

    def set_input_tensor(self, input_tensor: Any) -> None:
        """Receive the previous stage's hidden states, as the pipeline schedule hands them over."""
        (hidden,) = input_tensor if isinstance(input_tensor, list) else [input_tensor]
        self.decoder.set_input_tensor(hidden)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Score the responses of a packed row.

        Args:
            batch: One micro-batch; its length is a multiple of the tensor-parallel size under sequence parallelism.

        Returns:
            On the last stage [R, 1 or 4] float32 (columns of `models.head`); elsewhere hidden states [T(/tp), 1, h].
        """
        hidden = self._decode(batch)
        if not self.post_process:
            return hidden
        rows = self._gather(hidden).index_select(0, batch.score_rows)
        return self.output_layer(rows, batch.labels, self.shard, self._tied_weight(), self.statistics)

    def logits(self, batch: PackedBatch) -> Tensor:
        """This rank's share of the logits [T, V / tp] of every row, padded vocabulary cut; last stage, no gradient."""
        with torch.no_grad():
            rows = self._gather(self._decode(batch))
            return self.output_layer.logits(rows, self._tied_weight())[:, : self.shard.real]

    def _decode(self, batch: PackedBatch) -> Tensor:
        embedded = self.embedding(batch.tokens[None], None) if self.pre_process else None
        self.frequencies = self.frequencies.to(batch.positions.device)
        cos, sin = angles(batch.positions, self.frequencies, self.amplitude)
        return self.decoder(embedded, attention_mask=None, packed_seq_params=SegmentParams.of(batch, cos, sin))

    def _gather(self, hidden: Tensor) -> Tensor:
        """All rows [T, h]. The head's backward already sums over tensor ranks, so the gather's must not."""
        if self.config.sequence_parallel:
            hidden = gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=False)
        return hidden.squeeze(1)

    def _tied_weight(self) -> Tensor | None:
        return self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else None


def _vocab_shard(model: ModelConfig, tp: int) -> VocabShard:
    size = model.padded_vocab(tp) // tp
    group = parallel_state.get_tensor_model_parallel_group() if tp > 1 else None
    start = size * parallel_state.get_tensor_model_parallel_rank()
    return VocabShard(start, size, model.vocab_size, group)


def _mark_tensor_parallel(model: nn.Module) -> None:
    """Mark parameters that are split over tensor ranks.

    megatron-core does so only while it draws random weights. Without the marks the gradient norm leaves out what lies
    on the other ranks, and clipping goes wrong.
    """
    dims = {VocabParallelEmbedding: 0, ColumnParallelLinear: 0, RowParallelLinear: 1}
    for module in model.modules():
        for kind, dim in dims.items():
            if isinstance(module, kind):
                for name, parameter in module.named_parameters(recurse=False):
                    # A row-parallel layer's bias is whole on every rank.
                    if not (kind is RowParallelLinear and name == "bias") and not hasattr(parameter, "partition_dim"):
                        set_tensor_model_parallel_attributes(parameter, True, dim, 1)

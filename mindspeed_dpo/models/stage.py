"""One stage of a decoder, without a head: embedding, layers, and the rows for whatever head follows.

It stands on megatron-core's blocks; the pipeline schedule, the data-parallel wrapper, the optimizer and the checkpoints
of megatron-core treat it as any model of theirs. Parameter names are those of its GPT model.
"""

from __future__ import annotations

from typing import Any

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
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.models.layers import SegmentParams
from mindspeed_dpo.models.rotary import amplitude, angles, inverse_frequencies
from mindspeed_dpo.models.spec import Execution, block_spec, transformer_config
from mindspeed_dpo.parallel.context import ContextGroup


class DecoderStage(LanguageModule):
    """What the stages of all our models have in common; each adds its head on the last one."""

    def __init__(self, model: ModelConfig, execution: Execution, *, chunk: int = 0, final_norm: bool = True) -> None:
        """Build this rank's stage; parameters are left for loading unless `execution.initialise`.

        Args:
            model: The architecture.
            execution: How it runs.
            chunk: Which of this rank's virtual stages.
            final_norm: Whether the hidden states of the last stage are normed.
        """
        super().__init__(config=transformer_config(model, execution))
        self.model_type = ModelType.encoder_or_decoder
        self.vp_stage = chunk if execution.chunks > 1 else None
        self.pre_process = parallel_state.is_pipeline_first_stage() and chunk == 0
        self.post_process = parallel_state.is_pipeline_last_stage() and chunk == execution.chunks - 1
        self.context = ContextGroup.of(execution.topology.cp)
        # Not a buffer: casting the module to a low precision must not round the frequencies.
        self.frequencies, self.amplitude = inverse_frequencies(model), amplitude(model)
        if self.pre_process:
            self.embedding = LanguageModelEmbedding(
                self.config, model.padded_vocab(execution.topology.tp), model.max_position_embeddings, "none"
            )
        self.decoder = TransformerBlock(
            self.config,
            block_spec(self.config, self.vp_stage),
            post_layer_norm=final_norm,
            pre_process=self.pre_process,
            post_process=self.post_process,
            vp_stage=self.vp_stage,
        )

    @property
    def chunks(self) -> tuple[DecoderStage, ...]:
        """The stages of which a process's part of a model is made: this one alone."""
        return (self,)

    def set_input_tensor(self, input_tensor: Any) -> None:
        """Receive the previous stage's hidden states, as the pipeline schedule hands them over."""
        (hidden,) = input_tensor if isinstance(input_tensor, list) else [input_tensor]
        self.decoder.set_input_tensor(hidden)

    def _decode(self, batch: PackedBatch) -> Tensor:
        """Hidden states [T / cp(/tp), 1, h] of this stage's layers, for the rows that this rank computes."""
        tokens, positions = batch.tokens, batch.positions
        if batch.part is not None:
            tokens, positions = batch.part.cut(tokens), batch.part.cut(positions)
        embedded = self.embedding(tokens[None], None) if self.pre_process else None
        self.frequencies = self.frequencies.to(positions.device)
        params = SegmentParams.of(batch, *angles(positions, self.frequencies, self.amplitude), self.context)
        return self.decoder(embedded, attention_mask=None, packed_seq_params=params)

    def _gather(self, hidden: Tensor) -> Tensor:
        """All rows that this context-parallel rank computes [T / cp, h].

        The head's backward already sums over tensor ranks, so the gather's must not.
        """
        if self.config.sequence_parallel:
            hidden = gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=False)
        return hidden.squeeze(1)


def mark_tensor_parallel(model: nn.Module) -> None:
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

"""One pipeline stage of a decoder without head: embedding, layers, and the hidden states for a head.

It is built from megatron-core's blocks, so the pipeline schedule, the data-parallel wrapper, the optimizer and the
checkpoints of megatron-core treat it like its own models. Parameter names are those of its GPT model.
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
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.models.layer_spec import Execution, block_spec, transformer_config
from mindspeed_dpo.models.layers import SegmentParams
from mindspeed_dpo.models.moe.expert_load import RouterObserver
from mindspeed_dpo.models.moe.sequence_rows import SequenceRows
from mindspeed_dpo.models.rotary_scaling import amplitude, angles, inverse_frequencies
from mindspeed_dpo.parallel.context_parallel import ContextGroup


class DecoderStage(LanguageModule):
    """The common base of policy and reward models, which add a head on the last stage.

    Attributes:
        routing: What training does with the choices of the routers; None where there are none.
    """

    routing: RouterObserver | None = None

    def __init__(self, model: ModelConfig, execution: Execution, *, chunk: int = 0, final_norm: bool = True) -> None:
        """Build this rank's stage; parameters are uninitialised unless `execution.random_init`.

        Args:
            model: The architecture.
            execution: Parallelism, dtype and recomputation.
            chunk: Index of the virtual stage on this rank.
            final_norm: Whether the last stage ends with a norm.
        """
        super().__init__(config=transformer_config(model, execution))
        self.model_type = ModelType.encoder_or_decoder
        self.vp_stage = chunk if execution.num_chunks > 1 else None
        self.pre_process = parallel_state.is_pipeline_first_stage() and chunk == 0
        self.post_process = parallel_state.is_pipeline_last_stage() and chunk == execution.num_chunks - 1
        self.context = ContextGroup.of(execution.topology.cp)
        self._has_equal_layers = len({model.is_moe_layer(layer) for layer in range(model.num_layers)}) == 1
        # Not a buffer, because casting the module to a lower precision must not round the frequencies.
        self.frequencies, self.amplitude = inverse_frequencies(model), amplitude(model)
        if self.pre_process:
            self.embedding = LanguageModelEmbedding(
                self.config, model.padded_vocab(execution.topology.tp), model.max_position_embeddings, "none"
            )
        self.decoder = TransformerBlock(
            self.config,
            block_spec(self.config, model, self.vp_stage),
            post_layer_norm=final_norm,
            pre_process=self.pre_process,
            post_process=self.post_process,
            vp_stage=self.vp_stage,
        )

    @property
    def chunks(self) -> tuple[DecoderStage, ...]:
        """The model chunks of this process: only this one."""
        return (self,)

    def set_input_tensor(self, input_tensor: Any) -> None:
        """Set the hidden states of the previous stage; called by the pipeline schedule."""
        (hidden,) = input_tensor if isinstance(input_tensor, list) else [input_tensor]
        self.decoder.set_input_tensor(hidden)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Describe the parameters for a distributed checkpoint; layers of two kinds are not stacked to one tensor."""
        described: dict[str, Any] = super().sharded_state_dict(
            prefix, sharded_offsets, self._checkpoint_metadata(metadata)
        )
        return described

    def _checkpoint_metadata(self, metadata: dict[str, Any] | None) -> dict[str, Any] | None:
        return metadata if self._has_equal_layers else {**(metadata or {}), "non_homogeneous_layers": True}

    def _decode(self, batch: PackedBatch) -> Tensor:
        """Compute the hidden states [T / cp(/tp), 1, h] of this stage's layers for the rows of this rank."""
        tokens, positions = batch.tokens, batch.positions
        if batch.part is not None:
            tokens, positions = batch.part.cut(tokens), batch.part.cut(positions)
        embedded = self.embedding(tokens[None], None) if self.pre_process else None
        self.frequencies = self.frequencies.to(positions.device)
        params = SegmentParams.from_batch(batch, *angles(positions, self.frequencies, self.amplitude), self.context)
        if self.routing is None or not torch.is_grad_enabled():
            return self.decoder(embedded, attention_mask=None, packed_seq_params=params)
        with self.routing.of_pass(SequenceRows.of(batch, self.config)) as params.observe_routing:
            return self.decoder(embedded, attention_mask=None, packed_seq_params=params)

    def _gather(self, hidden: Tensor) -> Tensor:
        """Gather the hidden states of all rows of this context-parallel rank, [T / cp, h].

        The head's backward pass sums over tensor-parallel ranks, so that of the gather must not.
        """
        if self.config.sequence_parallel:
            hidden = gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=False)
        return hidden.squeeze(1)


def mark_tensor_parallel(model: nn.Module) -> None:
    """Mark parameters that are split over tensor-parallel ranks.

    megatron-core does so only when it initialises weights at random. Without the marks the gradient norm omits the
    shards of all ranks but the first, which breaks clipping.
    """
    dims = {VocabParallelEmbedding: 0, ColumnParallelLinear: 0, RowParallelLinear: 1}
    for module in model.modules():
        for module_type, dim in dims.items():
            if isinstance(module, module_type):
                for name, parameter in module.named_parameters(recurse=False):
                    # The bias of a row-parallel layer is replicated.
                    if not (module_type is RowParallelLinear and name == "bias") and not hasattr(
                        parameter, "partition_dim"
                    ):
                        set_tensor_model_parallel_attributes(parameter, True, dim, 1)

"""The language model as policy or reference: a decoder with the log-probability head on its last stage."""

from __future__ import annotations

from megatron.core import parallel_state
from torch import Tensor

from mindspeed_dpo.batches import PackedBatch
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.models.chunked_logprob_head import LogProbHead
from mindspeed_dpo.models.decoder_stage import DecoderStage, mark_tensor_parallel
from mindspeed_dpo.models.layer_spec import Execution
from mindspeed_dpo.models.vocab_shard import VocabShard


class PolicyModel(DecoderStage):
    """One pipeline stage, or virtual stage, of a language model.

    Attributes:
        fused_head: Whether the head uses the device's fused operator where no statistics are requested. Off by default;
            set it after the operator has been probed.
    """

    def __init__(self, model: ModelConfig, execution: Execution, statistics: bool = False, *, chunk: int = 0) -> None:
        """Build this rank's stage; parameters are uninitialised unless `execution.random_init`.

        Args:
            model: The architecture.
            execution: Parallelism, dtype and recomputation.
            statistics: Whether the head also returns token statistics.
            chunk: Index of the virtual stage on this rank.
        """
        super().__init__(model, execution, chunk=chunk)
        self.share_embeddings_and_output_weights = not model.untie_embeddings_and_output_weights
        self.statistics = statistics
        self.fused_head = False
        self.shard = _vocab_shard(model, execution.topology.tp)
        if self.post_process:
            self.output_layer = self._head(model, execution)
        mark_tensor_parallel(self)
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

    def forward(self, batch: PackedBatch) -> Tensor:
        """Compute the log-probability of each response token of a packed row.

        Args:
            batch: One micro-batch; its length is a multiple of the context-parallel size, and with sequence parallelism
                also of that times the tensor-parallel size.

        Returns:
            On the last stage [R, 1 or 5] float32 (columns of `models.chunked_logprob_head`), equal on all
            context-parallel ranks; on other stages hidden states [T / cp(/tp), 1, h].
        """
        hidden = self._decode(batch)
        if not self.post_process:
            return hidden
        part, hidden = batch.part, self._gather(hidden)
        if self.context is None or part is None:
            return self._columns(hidden, batch.score_rows, batch.labels)
        return self.context.join(self._columns(hidden, part.score_rows, part.labels), part, len(batch.labels))

    def _columns(self, hidden: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        """Apply the head to `rows` [r] of the hidden states and labels [r]; returns [r, 1 or 5]."""
        rows = hidden.index_select(0, rows)
        return self.output_layer(rows, labels, self.shard, self._tied_weight(), self.statistics, fused=self.fused_head)

    def _tied_weight(self) -> Tensor | None:
        return self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else None


def _vocab_shard(model: ModelConfig, tp: int) -> VocabShard:
    size = model.padded_vocab(tp) // tp
    group = parallel_state.get_tensor_model_parallel_group() if tp > 1 else None
    start = size * parallel_state.get_tensor_model_parallel_rank()
    return VocabShard(start, size, model.vocab_size, group)

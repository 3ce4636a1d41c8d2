"""The modules of the layer spec: norm, activation, and attention over segments, each a call of a device operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn

from mindspeed_dpo.batches import PackedBatch
from mindspeed_dpo.device import ops
from mindspeed_dpo.parallel.context_parallel import ContextGroup


class RMSNorm(nn.Module):
    """Root-mean-square norm with a weight [h].

    With sequence parallelism each rank normalises its own rows, so the weight's gradient is summed over the
    tensor-parallel ranks; megatron-core does that for parameters with the attribute `sequence_parallel`.
    """

    def __init__(self, config: Any, hidden_size: int, eps: float, **_: Any) -> None:
        super().__init__()
        device = "cpu" if config.use_cpu_initialization else torch.cuda.current_device()
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype, device=device))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        self.epsilon = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise activations [..., h] of any float dtype over the last dim."""
        return ops.rms_norm(x, self.weight, self.epsilon)


class SwiGLU(MegatronModule):
    """Gated SiLU between the two MLP projections; the input is the gate half followed by the up half."""

    def forward(self, x: Tensor) -> Tensor:
        """Map activations [T, 1, 2f] of any float dtype to [T, 1, f]."""
        return ops.swiglu(x)


@dataclass
class SegmentParams(PackedSeqParams):
    """The arguments of attention for a packed row, passed through megatron-core to every layer.

    Recomputation captures it in a closure, so it may hold Python lists. The format "sbhd" keeps megatron-core off its
    own path for packed sequences, which copies lengths to the host in every layer.

    Attributes:
        batch: The packed row of T tokens.
        cos: [T / c, d] float32 cosines for the positions that this rank computes, as one of c context-parallel ranks.
        sin: [T / c, d] float32 sines for the same positions.
        context: The context-parallel group, or None for a single rank.
        observe_routing: Maps output, choices of the router and index of a layer to the output, with the gradient of
            losses of the choices; None where nothing is to be done with them.
    """

    batch: PackedBatch = None  # type: ignore[assignment]
    cos: Tensor = None  # type: ignore[assignment]
    sin: Tensor = None  # type: ignore[assignment]
    context: ContextGroup | None = None
    observe_routing: Callable[..., Tensor] | None = None

    @classmethod
    def from_batch(
        cls, batch: PackedBatch, cos: Tensor, sin: Tensor, context: ContextGroup | None = None
    ) -> SegmentParams:
        """Build the arguments for one micro-batch.

        Args:
            batch: The packed row.
            cos: [T / c, d] float32 cosines of the rotary embedding.
            sin: [T / c, d] float32 sines of the rotary embedding.
            context: The context-parallel group, or None for a single rank.
        """
        return cls(
            qkv_format="sbhd",
            max_seqlen_q=max(batch.query_lengths),
            max_seqlen_kv=max(batch.key_lengths),
            batch=batch,
            cos=cos,
            sin=sin,
            context=context,
        )


class SegmentAttention(nn.Module):
    """Core attention: apply rotary embeddings, gather the keys of shared prefixes, attend within segments.

    A context-parallel rank exchanges its own rows of all heads for all rows of its own heads before attention, and back
    afterwards.
    """

    def __init__(self, config: Any, layer_number: int, softmax_scale: float | None = None, **_: Any) -> None:
        super().__init__()
        self.scale = softmax_scale or config.kv_channels**-0.5
        self.window = config.window_size[0] + 1 if config.window_size else None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        *,
        packed_seq_params: SegmentParams,
        **_: Any,
    ) -> Tensor:
        """Compute the attention output of a packed row.

        Args:
            query: [T / c, 1, heads, d] activations of this tensor-parallel rank in any float dtype, without rotary
                embedding.
            key: [T / c, 1, groups, d].
            value: [T / c, 1, groups, d].
            attention_mask: Unused; the segments define which keys are visible.
            packed_seq_params: The segments, cosines and sines.

        Returns:
            [T / c, 1, heads * d] in the same dtype.
        """
        batch, context = packed_seq_params.batch, packed_seq_params.context
        cos, sin = packed_seq_params.cos, packed_seq_params.sin
        query, key, value = (
            ops.rotate(query.squeeze(1), cos, sin),
            ops.rotate(key.squeeze(1), cos, sin),
            value.squeeze(1),
        )
        if context is not None:
            query, key, value = context.to_heads(query, key, value)
        if batch.key_rows is not None:
            key, value = key.index_select(0, batch.key_rows), value.index_select(0, batch.key_rows)
        out = ops.segment_attention(query, key, value, batch.query_lengths, batch.key_lengths, self.scale, self.window)
        if context is not None:
            out = context.to_rows(out)
        return out.reshape(len(out), 1, -1)

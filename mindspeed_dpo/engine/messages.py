"""Messages between pipeline stages, whose lengths differ and are known: each stage has the same micro-batches.

megatron-core sends the shape of each message ahead of it and waits for the device to read it. Padding all micro-batches
of a step to one length would spare that too, at the price of computing the padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from megatron.core import parallel_state
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.pipeline_parallel.schedules import get_tensor_shapes
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

Shape = tuple[int, ...]


class KnownShapes(P2PCommunicator):
    """megatron-core's messages of 1F1B, without its exchange of shapes."""

    def __init__(self, pp_group: Any, config: Any, shapes: Sequence[Shape]) -> None:
        """Expect hidden states, and their gradients, of the given shapes, in the order of the micro-batches."""
        super().__init__(pp_group, config)
        self._forward, self._backward = iter(shapes), iter(shapes)

    def _communicate_shapes(
        self, tensor_send_next: Tensor | None, tensor_send_prev: Tensor | None, recv_prev: bool, recv_next: bool
    ) -> tuple[Shape | None, Shape | None]:
        """What comes from the stage before (the next micro-batch) and from the one after (the next gradient)."""
        return next(self._forward) if recv_prev else None, next(self._backward) if recv_next else None


def known_shapes(config: Any, lengths: Sequence[int]) -> dict[str, Any]:
    """Options of megatron-core's schedule: the messages, and with them the process groups.

    Args:
        config: Of the stage, with `variable_seq_lengths`.
        lengths: Rows of each micro-batch.
    """
    groups = ProcessGroupCollection()
    groups.tp = parallel_state.get_tensor_model_parallel_group()
    groups.cp = parallel_state.get_context_parallel_group()
    groups.pp = parallel_state.get_pipeline_model_parallel_group()
    groups.embd = parallel_state.get_embedding_group(check_initialized=False)
    groups.pos_embd = parallel_state.get_position_embedding_group(check_initialized=False)
    groups.dp_cp = parallel_state.get_data_parallel_group(with_context_parallel=True)
    shapes = [
        get_tensor_shapes(
            seq_length=length,
            micro_batch_size=1,
            decoder_seq_length=None,
            config=config,
            tp_group=groups.tp,
            cp_group=groups.cp,
        )[0]
        for length in lengths
    ]
    return {"p2p_communicator": KnownShapes(groups.pp, config, shapes), "pg_collection": groups}

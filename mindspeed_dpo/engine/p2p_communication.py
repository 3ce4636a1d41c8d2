"""Point-to-point messages between pipeline stages whose shapes every stage computes itself.

megatron-core sends the shape of each message first and waits for the device to read it. All stages have the same
micro-batches, so the shapes are known. Padding the micro-batches of a step to one length would avoid the exchange too,
but the padding would be computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from megatron.core import parallel_state
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.pipeline_parallel.schedules import get_schedule_table, get_tensor_shapes
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

Shape = tuple[int, ...]


class PlannedShapes(P2PCommunicator):
    """megatron-core's communicator without its exchange of shapes."""

    def __init__(self, pp_group: Any, config: Any, forward: Sequence[Shape], backward: Sequence[Shape]) -> None:
        """Set the shapes of the hidden states and of the gradients to receive, each in order of arrival."""
        super().__init__(pp_group, config)
        self._forward, self._backward = iter(forward), iter(backward)

    def _communicate_shapes(
        self, tensor_send_next: Tensor | None, tensor_send_prev: Tensor | None, recv_prev: bool, recv_next: bool
    ) -> tuple[Shape | None, Shape | None]:
        """Return the shapes of the next hidden states and of the next gradient instead of exchanging them."""
        return next(self._forward) if recv_prev else None, next(self._backward) if recv_next else None

    def _communicate(
        self, *, tensor_send_next: Tensor | None, tensor_send_prev: Tensor | None, **options: Any
    ) -> tuple[Tensor, Tensor, Any]:
        """Send aliases of the tensors, since an interleaved schedule may free an output before it has been sent."""
        messages: tuple[Tensor, Tensor, Any] = super()._communicate(
            tensor_send_next=None if tensor_send_next is None else tensor_send_next.detach(),
            tensor_send_prev=None if tensor_send_prev is None else tensor_send_prev.detach(),
            **options,
        )
        return messages


def p2p_options(config: Any, lengths: Sequence[int], chunks: int) -> dict[str, Any]:
    """Build the communicator and the process groups for megatron-core's schedule.

    Args:
        config: Model configuration of the first chunk, with `variable_seq_lengths` set.
        lengths: Number of tokens of each micro-batch.
        chunks: Number of virtual stages per rank.
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
    table = get_schedule_table(len(shapes), chunks, config.microbatch_group_size_per_vp_stage)
    is_first, is_last = groups.pp.rank() == 0, groups.pp.rank() == groups.pp.size() - 1
    forward, backward = ([shapes[number] for number in arrivals(table, end)] for end in (is_first, is_last))
    return {"p2p_communicator": PlannedShapes(groups.pp, config, forward, backward), "pg_collection": groups}


def arrivals(table: Sequence[tuple[int, int]], is_source: bool) -> list[int]:
    """List the micro-batches of the messages that arrive at a stage in one direction, in order.

    The backward pass visits the chunks in reverse and the micro-batches in the same order.

    Args:
        table: Micro-batch and chunk of each pass through a stage.
        is_source: Whether the direction starts at this stage. It then receives messages only from the other end of the
            pipeline, which sends nothing for the last chunk.
    """
    last = max(chunk for _, chunk in table)
    return [number for number, chunk in table if not (is_source and chunk == last)]

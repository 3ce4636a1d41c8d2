"""Messages between pipeline stages, whose lengths differ and are known: each stage has the same micro-batches.

megatron-core sends the shape of each message ahead of it and waits for the device to read it. Padding all micro-batches
of a step to one length would spare that too, at the price of computing the padding.
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


class KnownShapes(P2PCommunicator):
    """megatron-core's messages, without its exchange of shapes."""

    def __init__(self, pp_group: Any, config: Any, forward: Sequence[Shape], backward: Sequence[Shape]) -> None:
        """Expect hidden states of the shapes `forward` and gradients of the shapes `backward`, in that order."""
        super().__init__(pp_group, config)
        self._forward, self._backward = iter(forward), iter(backward)

    def _communicate_shapes(
        self, tensor_send_next: Tensor | None, tensor_send_prev: Tensor | None, recv_prev: bool, recv_next: bool
    ) -> tuple[Shape | None, Shape | None]:
        """What comes from the stage before (the next hidden states) and from the one after (the next gradient)."""
        return next(self._forward) if recv_prev else None, next(self._backward) if recv_next else None

    def _communicate(
        self, *, tensor_send_next: Tensor | None, tensor_send_prev: Tensor | None, **options: Any
    ) -> tuple[Tensor, Tensor, Any]:
        """Send what the schedule may let go of before it has left: an interleaved one does not wait for that.

        Its emptying of an output would take away the memory that is being sent; an alias holds on to it.
        """
        messages: tuple[Tensor, Tensor, Any] = super()._communicate(
            tensor_send_next=None if tensor_send_next is None else tensor_send_next.detach(),
            tensor_send_prev=None if tensor_send_prev is None else tensor_send_prev.detach(),
            **options,
        )
        return messages


def known_shapes(config: Any, lengths: Sequence[int], chunks: int) -> dict[str, Any]:
    """Options of megatron-core's schedule: the messages, and with them the process groups.

    Args:
        config: Of the first chunk, with `variable_seq_lengths`.
        lengths: Rows of each micro-batch.
        chunks: Virtual stages of each stage.
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
    forward, backward = ([shapes[number] for number in arriving(table, end)] for end in (is_first, is_last))
    return {"p2p_communicator": KnownShapes(groups.pp, config, forward, backward), "pg_collection": groups}


def arriving(table: Sequence[tuple[int, int]], at_an_end: bool) -> list[int]:
    """Micro-batches of the messages that reach a stage in one direction, in their order.

    Backward the chunks are passed through in the opposite order, and their micro-batches in the same.

    Args:
        table: Micro-batch and chunk of each pass through a stage.
        at_an_end: The stage is where the direction begins. What reaches it has been through the other end, which keeps
            what leaves the model.
    """
    last = max(chunk for _, chunk in table)
    return [number for number, chunk in table if not (at_an_end and chunk == last)]

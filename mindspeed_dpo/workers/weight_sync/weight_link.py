"""The membership of a receiving process in the weight group, over which the actor sends its weights."""

from __future__ import annotations

import torch.distributed as dist

from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.parallel.weight_transfer_group import WeightGroup, join_weight_group
from mindspeed_dpo.workers.setup.worker_context import WorkerContext


class WeightLink:
    """One receiver's place in the weight group, which it joins once."""

    def __init__(self, context: WorkerContext, role: RoleConfig, receiver: str, group_name: str = "link") -> None:
        """Remember how to join.

        Args:
            context: Context of this process.
            role: Settings of the receiving role.
            receiver: Name of the role in messages, e.g. `rollout`.
            group_name: Name of the group, equal in all its processes and used for no other.
        """
        self._context, self._role = context, role
        self._receiver, self._group_name = receiver, group_name
        self._group: WeightGroup | None = None

    def join(self, address: str, num_senders: int, num_receivers: int) -> None:
        """Join with a rank after those of the senders; returns once every process has joined."""
        self._group = join_weight_group(
            address,
            num_senders + dist.get_rank(),
            num_senders + num_receivers,
            backend=self._context.accelerator.backend,
            timeout_minutes=self._role.parallel.distributed_timeout_minutes,
            name=self._group_name,
        )

    @property
    def group(self) -> WeightGroup:
        """The group that this process has joined.

        Raises:
            RuntimeError: `join` was not called.
        """
        if self._group is None:
            raise RuntimeError(
                f"the {self._receiver} has not joined a weight group with the actor; call join_weight_group on both "
                "first"
            )
        return self._group

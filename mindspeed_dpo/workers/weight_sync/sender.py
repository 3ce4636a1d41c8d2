"""The actor's end of the way that its weights take to a rollout on devices of its own."""

from __future__ import annotations

import torch.distributed as dist
from megatron.core import parallel_state

from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.engine.train_engine import TrainingEngine
from mindspeed_dpo.models.lora import merged_parameters
from mindspeed_dpo.parallel.link import Link, join_link
from mindspeed_dpo.parallel.store import host_store
from mindspeed_dpo.weights.resharding import Sender, Shards, digests, transfer
from mindspeed_dpo.workers.setup.builders import Seat, placement_of


class Publishing:
    """Hands the weights of one training process on, as far as that is its part.

    The first copy of the weights is published: the first tensor-parallel rank of each stage is in the link, the others
    help it.
    """

    def __init__(self, seat: Seat, role: RoleConfig, engine: TrainingEngine) -> None:
        self._seat = seat
        self._role = role
        self._engine = engine
        self._store: dist.TCPStore | None = None
        self._link: Link | None = None
        self._is_open = False

    def host_link(self, host: str) -> str | None:
        """`host:port` where a link can be joined, from the first process, which lies on `host`; None from the others.

        Each link needs a call of its own.
        """
        if dist.get_rank():
            return None
        self._store = host_store(0)
        return f"{host}:{self._store.port}"

    def open_link(self, address: str, publishers: int, receivers: int) -> None:
        """Join the link; returns once all publishers and receivers have come.

        Args:
            address: What `host_link` gave.
            publishers: Pipeline stages of the actor.
            receivers: Processes of the rollout, whose ranks in the link follow.
        """
        place, self._is_open = self._seat.place, True
        if place.holds_first_copy and place.tp_rank == 0:
            self._link = join_link(
                address,
                place.pp_rank,
                publishers + receivers,
                backend=self._seat.accelerator.backend,
                timeout_minutes=self._role.parallel.distributed_timeout_minutes,
                store=self._store,
            )

    def publish(self, version: int) -> None:
        """Send the weights to the rollout, which must `receive` the same version meanwhile; a collective.

        Without a link nothing happens: the rollout lives in these processes and takes the weights itself.

        Raises:
            WeightsError: The rollout expects something else; it raises the same, and no weight has moved.
        """
        if not self._is_open:
            return
        # On every replica: where the gather of updated parameters is overlapped, it takes all of them.
        with self._engine.parameters_gathered():
            sender = sender_of(self._seat, self._role, self._engine, source=self._seat.place.pp_rank)
            if sender is not None:
                bucket_bytes = self._role.rollout.publish_bucket_bytes
                transfer(self._link, sender, None, version=version, bucket_bytes=bucket_bytes)

    def digest(self) -> dict[str, int] | None:
        """See `transit.digests`; from the one process that speaks for each replica, None from the others."""
        place = self._seat.place
        alone = place.topology.tp * place.topology.pp == 1
        with self._engine.parameters_gathered():
            found = digests(
                shards_of(self._seat, self._role, self._engine),
                None if alone else parallel_state.get_model_parallel_group(),
            )
        return found if place.is_output else None


def sender_of(seat: Seat, role: RoleConfig, engine: TrainingEngine, source: int) -> Sender | None:
    """What this training process publishes now; None outside the first copy of the weights.

    Adapters are merged into a copy of the weights, so what was made before an update must not be sent after it.

    Args:
        seat: Of the actor.
        role: The actor.
        engine: Holds the weights.
        source: Rank in the link of the first tensor-parallel rank of this stage.
    """
    if not seat.place.holds_first_copy:
        return None
    several = seat.place.topology.tp > 1
    group = parallel_state.get_tensor_model_parallel_group() if several else None
    return Sender(shards_of(seat, role, engine), group, source)


def shards_of(seat: Seat, role: RoleConfig, engine: TrainingEngine) -> Shards:
    """The weights of this training process as they are now, adapters merged."""
    return Shards(role.model, merged_parameters(engine.model), placement_of(role, seat.place))

"""The weights of a reference on devices of its own, which are moved towards those that the actor sends (TR-DPO)."""

from __future__ import annotations

from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.models.lora import merged_parameters
from mindspeed_dpo.models.virtual_stages import PipelineStage
from mindspeed_dpo.weights.resharding import Shards, transfer
from mindspeed_dpo.workers.setup.model_builder import placement_of
from mindspeed_dpo.workers.setup.worker_context import WorkerContext
from mindspeed_dpo.workers.weight_sync.weight_link import WeightLink


class MixedWeights:
    """The receiver of one process of the reference, whose layout may differ from the actor's."""

    def __init__(self, context: WorkerContext, role: RoleConfig, model: PipelineStage) -> None:
        """Update the weights of a model in place.

        Args:
            context: Context of this process.
            role: Settings of the reference.
            model: Its model, with one pipeline stage.
        """
        self._role = role
        self._shards = Shards(role.model, merged_parameters(model), placement_of(role, context.place))
        self._link = WeightLink(context, role, "reference", group_name="reference")

    def join_group(self, address: str, num_senders: int, num_receivers: int) -> None:
        """Join the weight group with a rank after those of the senders."""
        self._link.join(address, num_senders, num_receivers)

    def receive(self, version: int, share: float) -> None:
        """Mix the weights that the actor sends into the reference's; a collective with it.

        Args:
            version: Version of the weights.
            share: Share of the actor's weights, from 0 to 1.

        Raises:
            RuntimeError: `join_group` was not called.
            WeightsError: The actor sends something else; it raises the same, and no weight has changed.
        """
        bucket_bytes = self._role.rollout.publish_bucket_bytes
        transfer(self._link.group, None, self._shards, version=version, bucket_bytes=bucket_bytes, share=share)

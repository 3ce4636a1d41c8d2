"""A worker process: it joins the process group of its pool on its device, then plays one or more roles.

Nothing here imports megatron at the top. The driver imports this module for the class alone and starts without
megatron-core; on NPU the device's patches must come before the first megatron import.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.device import activate, find_accelerator
from mindspeed_dpo.device.determinism import make_deterministic
from mindspeed_dpo.device.hidden_modules import hidden_module
from mindspeed_dpo.observability.crash_signals import record_crash_signals
from mindspeed_dpo.observability.logs import LogSession, start_logging
from mindspeed_dpo.parallel.rendezvous_store import host_store
from mindspeed_dpo.processes.garbage_collection import collection_suspended
from mindspeed_dpo.workers.role_calls import P, R, RoleMethod, RoleT

if TYPE_CHECKING:
    from mindspeed_dpo.workers.colocated_roles import ColocatedRoles

logger = logging.getLogger(__name__)


class PortInUseError(RuntimeError):
    """The port that `master_port` names is in use."""


class WorkerProcess:
    """A process of a pool. All roles of a pool have the same layout and share one process group."""

    def __init__(self, run: RunConfig, pool: str, working_dir: str) -> None:
        """Store the settings; `join` allocates the device.

        Args:
            run: Settings of the run.
            pool: Name of the process's pool.
            working_dir: Folder that the run's relative paths start from; the same on all nodes.
        """
        self.run = run
        self.pool = pool
        self._working_dir = working_dir
        self._roles: ColocatedRoles | None = None
        self._store: Any = None
        self._log: LogSession | None = None

    def rendezvous_address(self, host: str) -> str:
        """Open the store through which the pool's processes join; called on rank 0.

        Args:
            host: Address at which the other processes of the pool reach this one.

        Returns:
            Address of the store.

        Raises:
            PortInUseError: `master_port` is set and in use.
        """
        first = self.run.loop.master_port
        port = None if first is None else first + list(self.run.pools).index(self.pool)
        try:
            hosted = host_store(port, host)
        except OSError as error:
            raise PortInUseError(
                f"master_port={port} is in use on {host}; choose another, or null for any free one"
            ) from error
        self._store = hosted.store
        return hosted.address

    def join(self, rank: int, world_size: int, master: str, local_rank: int = 0) -> None:
        """Activate the device and join the pool's process group; a collective.

        Args:
            rank: Rank of this process in its pool.
            world_size: Number of processes of the pool.
            master: What `rendezvous_address` of rank 0 returned.
            local_rank: Index of this process's device among those visible to it.
        """
        os.chdir(self._working_dir)
        self._log = start_logging(self.run.loop.output_dir, self.pool, rank)
        assert self._log.path is not None, "only consoles have none"
        record_crash_signals(self._log.path)
        logging.captureWarnings(True)
        role = self.run.layout_role(self.pool)
        if role.precision.use_deter_comp:
            make_deterministic(find_accelerator(self.run.loop.device).kind)
        timeout_minutes = role.parallel.distributed_timeout_minutes
        # megatron-core would import wandb, which takes half a second and is used on the driver only.
        with collection_suspended(), hidden_module("wandb"):
            accelerator = activate(self.run.loop.device, local_rank, megatron_settings(role), timeout_minutes)
            self._log.attach()
            # Imports megatron-core: only now is the device active, and the driver never gets here.
            from mindspeed_dpo.workers.colocated_roles import ColocatedRoles

        self._roles = ColocatedRoles.join(self.run, role, accelerator, rank, world_size, master, self._store)
        logger.info("rank %d of %d joined at %s on %s", rank, world_size, master, accelerator.kind)

    def build(self, role: str) -> None:
        """Build a role (`actor`, `ref`, `rollout` or `reward`) in this process; a collective."""
        self._joined.build(role)

    def drop(self, role: str) -> None:
        """Drop a role and free its memory."""
        self._joined.drop(role)

    def call(self, method: RoleMethod[RoleT, P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a role's method, named by its interface, such as `Actor.update`; a collective for most methods."""
        try:
            return self._joined.call(method, *args, **kwargs)
        except Exception:
            # The driver gets the exception too, but this log has the rank's own order of events.
            logger.exception("%s failed", method.__qualname__)
            raise

    def check_alive(self) -> None:
        """Check that what the roles have started beside this process still runs.

        Raises:
            RuntimeError: Something has ended.
        """
        if self._roles is not None:
            self._roles.check_alive()

    def leave(self) -> None:
        """Leave the process group and close the log."""
        if self._roles is not None:
            self._roles.leave()
        if self._log is not None:
            self._log.close()

    @property
    def _joined(self) -> ColocatedRoles:
        assert self._roles is not None, "join comes first"
        return self._roles


def megatron_settings(role: RoleConfig) -> dict[str, Any]:
    """Return the settings of a role that MindSpeed's patches depend on."""
    return {
        "seq_length": role.data.seq_length,
        "num_attention_heads": role.model.num_attention_heads,
        "tensor_model_parallel_size": role.parallel.tensor_model_parallel_size,
        "variable_seq_lengths": role.parallel.pipeline_model_parallel_size > 1,
    }

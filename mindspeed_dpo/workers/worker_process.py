"""One worker process: it joins the job on its device and then plays one or more roles on it.

It imports nothing of megatron at the top: on NPU the device's patches must come before the first megatron import. What
needs megatron is in `crew`, imported once the device is active. Who starts the process is left to the controller.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.device import activate, find_accelerator
from mindspeed_dpo.device.determinism import make_deterministic
from mindspeed_dpo.observability.logs import LogSession, start_logging
from mindspeed_dpo.parallel.store import host_store

logger = logging.getLogger(__name__)


class PortInUseError(RuntimeError):
    """The port where processes should meet is taken."""


class WorkerProcess:
    """A process of a pool. All roles of a pool share its layout, so one process group serves them."""

    def __init__(self, run: RunConfig, pool: str, working_dir: str) -> None:
        """Remember what to do; nothing is taken yet.

        Args:
            run: The whole run.
            pool: The pool this process belongs to.
            working_dir: Where relative paths of the run start; equal on all nodes.
        """
        self.run = run
        self.pool = pool
        self._working_dir = working_dir
        self._crew: Any = None
        self._store: Any = None
        self._log: LogSession | None = None

    def meeting_point(self, host: str) -> str:
        """`host:port` where the job's processes can meet, if this one is rank 0 and lies on `host`.

        Raises:
            PortInUseError: `master_port` is set and taken.
        """
        first = self.run.loop.master_port
        port = None if first is None else first + list(self.run.pools).index(self.pool)
        try:
            self._store = host_store(port or 0)
        except RuntimeError as error:
            raise PortInUseError(
                f"master_port={port} is in use on {host}; choose another, or null for any free one"
            ) from error
        return f"{host}:{self._store.port}"

    def join(self, rank: int, world_size: int, master: str, local_rank: int = 0) -> None:
        """Take the device and join the other processes of the pool; a collective.

        Args:
            rank: Of this process in its pool.
            world_size: Processes of the pool.
            master: `meeting_point` of rank 0.
            local_rank: Index of this process's device among those it sees.
        """
        os.chdir(self._working_dir)
        self._log = start_logging(self.run.loop.output_dir, self.pool, rank)
        logging.captureWarnings(True)
        role = self.run.layout_role(self.pool)
        if role.precision.use_deter_comp:
            make_deterministic(find_accelerator(self.run.loop.device).kind)
        patience = role.parallel.distributed_timeout_minutes
        accelerator = activate(self.run.loop.device, local_rank, megatron_settings(role), patience)
        self._log.attach()
        crew = importlib.import_module("mindspeed_dpo.workers.colocated_roles")
        self._crew = crew.Crew.join(self.run, role, accelerator, rank, world_size, master, self._store)
        logger.info("rank %d of %d joined at %s on %s", rank, world_size, master, accelerator.kind)

    def build(self, role: str) -> None:
        """Build a role (`actor` or `ref`) in this process; a collective."""
        self._crew.build(role)

    def drop(self, role: str) -> None:
        """Let go of a role and its memory."""
        self._crew.drop(role)

    def call(self, role: str, verb: str, *args: Any) -> Any:
        """Let a role do something; a collective for most verbs."""
        try:
            return getattr(self._crew.roles[role], verb)(*args)
        except Exception:
            # The driver gets the exception too, but this log has the ranks' own order of events.
            logger.exception("%s.%s failed", role, verb)
            raise

    def leave(self) -> None:
        """Leave the process group and close the log."""
        if self._crew is not None:
            self._crew.leave()
        if self._log is not None:
            self._log.close()


def megatron_settings(role: RoleConfig) -> dict[str, Any]:
    """What MindSpeed is told about a role."""
    return {
        "seq_length": role.data.seq_length,
        "num_attention_heads": role.model.num_attention_heads,
        "tensor_model_parallel_size": role.parallel.tensor_model_parallel_size,
        "variable_seq_lengths": role.parallel.pipeline_model_parallel_size > 1,
    }

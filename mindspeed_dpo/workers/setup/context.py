"""The context of a worker process: the run, its place in the layout, its device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.device import Accelerator
from mindspeed_dpo.parallel.topology import ParallelRank


@dataclass(frozen=True)
class WorkerContext:
    """What the roles of a worker process have in common.

    Attributes:
        run: Settings of the whole run.
        place: Ranks of this process in each parallel dimension.
        accelerator: Kind of device, already activated.
    """

    run: RunConfig
    place: ParallelRank
    accelerator: Accelerator

    @property
    def device(self) -> torch.device:
        """The torch device of this process."""
        return self.accelerator.device()

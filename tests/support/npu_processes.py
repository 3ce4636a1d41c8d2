"""A process of a pool on the reference NPU: the start-up of a worker, with the reference torch_npu and MindSpeed.

It imports nothing of megatron-core before the device is active, which a process of a pool otherwise would.
"""

from __future__ import annotations

import importlib
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

REFERENCE = Path(__file__).with_name("reference_npu")
SETTINGS = {"seq_length": 64, "num_attention_heads": 4, "tensor_model_parallel_size": 2, "variable_seq_lengths": True}
"""What may have been passed to another role before: each megatron setting among it is injected into later configs."""


MINDSPEED = os.environ.get("TEST_MINDSPEED")
"""A checkout of the real MindSpeed to work with instead of the reference's."""


def start_up(rank: int) -> Any:
    """Activate the reference NPU."""
    device, torch = (importlib.import_module(name) for name in ("mindspeed_dpo.device", "torch"))
    if MINDSPEED is None:
        sys.path.insert(0, str(REFERENCE))
        return device.activate("npu", rank, SETTINGS)
    importlib.import_module("tests.mindspeed.stand_in").install(MINDSPEED, REFERENCE)
    accelerator = device.activate("npu", rank, SETTINGS)
    # What torch_npu's transfer module does for a device, these do for the host.
    importlib.import_module("mindspeed_dpo.device.cpu").install()
    # MindSpeed calls a parameter of an NPU one of CUDA; so must a parameter of the host be called.
    torch.nn.Parameter.type = torch.Tensor.type  # type: ignore[method-assign]
    return accelerator


def serve_on_npu(rank: int, world_size: int, end: Connection) -> None:
    """Activate the reference NPU, then work as every process of a pool does."""
    accelerator = start_up(rank)
    importlib.import_module("tests.support.processes").work(rank, world_size, end, accelerator)

"""A torch_npu for tests: the operators that we call, in plain torch on host tensors, refusing what an NPU would.

Names, kinds of arguments and defaults are those of the wheels (`tests.support.npu_facts`). What the vendor's documents
rule out raises `DeviceRefusal`. Every call is noted in `calls`. `REFERENCE_NPU_VERSION` chooses the wheel to follow.

What it cannot show: kernels, their accuracy and speed, HCCL, memory, and tensors on a device other than the host.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist

from tests.support.npu_facts import V27, operators

from . import npu, rules
from .rules import DeviceRefusal, calls

__all__ = ["DeviceRefusal", "calls", "npu"]
__version__ = os.environ.get("REFERENCE_NPU_VERSION", V27)

_library = torch.library.Library("npu", "DEF")
for _name, _schema in operators(__version__).items():
    # torch itself parses the schema, so that names, kinds and defaults are held to it.
    _library.define(_schema)
    _library.impl(_name, getattr(rules, _name), "CompositeImplicitAutograd")
    globals()[_name] = rules.strict(_name, getattr(torch.ops.npu, _name))


def _hccl(store: Any, rank: int, size: int, timeout: Any) -> Any:
    """HCCL as far as it goes without a device: nothing reaches it, as host tensors travel by gloo."""
    return dist.ProcessGroupGloo(store, rank, size, timeout)


torch.utils.rename_privateuse1_backend("npu")
torch._register_device_module("npu", npu)
# torch would ask the compiled half of a backend, which is missing here; a barrier meets over gloo then.
torch._C._get_accelerator = lambda *_args: torch.device("cpu")
dist.Backend.register_backend("hccl", _hccl, devices=["npu"])

"""A torch_npu for tests: the operators that we call, in plain torch on host tensors, refusing what an NPU would.

Names, kinds of arguments and defaults are those of the wheels (`tests.support.npu_facts`). What the vendor's documents
rule out raises `DeviceRefusal`. Every call is noted in `calls`. `follow` chooses the wheel whose operators are there.

What it cannot show: kernels, their accuracy and speed, HCCL, memory, and tensors on a device other than the host.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from tests.support.npu_facts import SCHEMAS, V27, operators

from . import cross_entropy, grouped_matmul, npu, rules
from .rules import DeviceRefusal, calls

__all__ = ["DeviceRefusal", "calls", "follow", "npu"]
__version__ = V27

_library = torch.library.Library("npu", "DEF")
_operators: dict[str, Any] = {}
for _name, (_, _schema) in SCHEMAS.items():
    # torch itself parses the schema, so that names, kinds and defaults are held to it.
    _library.define(_schema)
    _home = next(module for module in (rules, grouped_matmul, cross_entropy) if hasattr(module, _name))
    _library.impl(_name, getattr(_home, _name), "CompositeImplicitAutograd")
    _operators[_name] = rules.strict(_name, getattr(torch.ops.npu, _name))


def follow(version: str) -> None:
    """Have the operators of that version of the wheel, and no others."""
    for name in _operators:
        globals().pop(name, None)
    globals().update({name: _operators[name] for name in operators(version)}, __version__=version)


follow(V27)


def _hccl(store: Any, rank: int, size: int, timeout: Any) -> Any:
    """HCCL as far as it goes without a device: nothing reaches it, as host tensors travel by gloo."""
    return dist.ProcessGroupGloo(store, rank, size, timeout)


torch.utils.rename_privateuse1_backend("npu")
torch._register_device_module("npu", npu)
# torch would call the compiled half of a backend, which is missing here; a barrier meets over gloo then.
torch._C._get_accelerator = lambda *_args: torch.device("cpu")
dist.Backend.register_backend("hccl", _hccl, devices=["npu"])

"""MindSpeed's adaptor as far as its traps go, of branch core_r0.16.0: what it reads, resets, replaces and drops.

Importing it parses `sys.argv`, resets logging and warnings and patches torch and megatron-core, for good. `seen` holds
what it saw. It provides no dummy TransformerEngine or apex, as MindSpeed does.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

seen: dict[str, Any] = {
    "argv": list(sys.argv),
    "torch_npu_came_first": "torch_npu" in sys.modules,
    "megatron_came_later": not any(name.split(".")[0] == "megatron" for name in sys.modules),
    "repatched": [],
}
_arguments, _unknown = argparse.ArgumentParser("MindSpeed").parse_known_args()
for _text in _unknown:
    if _text.startswith("--"):
        setattr(_arguments, _text[2:].replace("-", "_"), True)
logging.basicConfig(level=logging.INFO, stream=sys.stdout, force=True)

from torch_npu.contrib import transfer_to_npu  # noqa: E402

transfer_to_npu.transfer()
warnings.simplefilter("once")


def repatch(settings: Mapping[str, Any]) -> None:
    """Take settings; each that megatron-core's config knows becomes the default of every later config."""
    seen["repatched"].append(dict(settings))
    for key, value in settings.items():
        setattr(_arguments, key, value)


def _no_gather(*_args: Any, **_kwargs: Any) -> Any:
    # HCCL's own, here because there is no other transport in this process.
    raise RuntimeError("ProcessGroupHCCL does not support gather")


def _all_reduce(original: Callable[..., Any]) -> Callable[..., Any]:
    def all_reduce(*args: Any, **kwargs: Any) -> Any:
        tensor = args[0]
        # By its name: it also equals True, as which `async_op` comes.
        if any(str(given) == str(dist.ReduceOp.AVG) for given in (*args[1:], *kwargs.values())):
            raise RuntimeError("ProcessGroupHCCL: no mean")
        if tensor.dtype == torch.float64:
            # The reduced copy is not written back.
            return original(tensor.float(), *args[1:], **kwargs)
        return original(*args, **kwargs)

    return all_reduce


def _view(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda tensor, *args, **kwargs: original(tensor.contiguous(), *args, **kwargs)


def _config_init(original: Callable[..., None]) -> Callable[..., None]:
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        fields = set(type(self).__dataclass_fields__)
        for key, value in kwargs.items():
            if key not in fields:  # a misspelt key is taken as it is
                setattr(self, key, value)
        injected = {key: value for key, value in vars(_arguments).items() if key in fields}
        original(self, *args, **{**injected, **{key: value for key, value in kwargs.items() if key in fields}})
        # A class made on the spot: it is copied, but not pickled, since nobody finds it by its name.
        self.__class__ = type(type(self).__name__, (type(self),), {"__module__": "mindspeed.generated"})

    return init


class AdamW(torch.optim.Optimizer):
    """Adam with decoupled decay that counts its steps in the parameter group."""

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: Any = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["step"] = int(group.get("step", 0)) + 1
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state.update(exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                state["exp_avg"].lerp_(parameter.grad, 1 - first)
                state["exp_avg_sq"].mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
                root = (state["exp_avg_sq"].sqrt() / (1 - second ** group["step"]) ** 0.5).add_(group["eps"])
                parameter.addcdiv_(state["exp_avg"], root, value=-group["lr"] / (1 - first ** group["step"]))


def _no_sharding(*_args: Any, **_kwargs: Any) -> Any:
    raise NotImplementedError("Unknown sharding_type")


def _patch() -> None:
    dist.all_reduce = _all_reduce(dist.all_reduce)
    dist.gather = _no_gather
    torch.Tensor.view = _view(torch.Tensor.view)
    import megatron.core.optimizer as optimizers
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
    from megatron.core.transformer.transformer_config import TransformerConfig

    optimizers.Adam = AdamW
    DistributedOptimizer.sharded_state_dict = _no_sharding
    DistributedOptimizer.load_state_dict = _no_sharding
    TransformerConfig.__init__ = _config_init(TransformerConfig.__init__)


_patch()

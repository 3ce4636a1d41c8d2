"""megatron-core on the CPU: the `torch.cuda` functions that it needs, redirected to the host.

This is the counterpart of torch_npu's transfer module, limited to one short table and reversible for tests. Of device
arguments only the literal "cuda" is redirected. Two more entries are for speed: `torch.compile` is disabled, and
bfloat16 is multiplied in float32 on processors without bfloat16 instructions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from mindspeed_dpo.device import bf16_emulation

_Target = tuple[Any, str]
_saved: dict[_Target, Any] = {}


def install() -> None:
    """Apply the redirects to this process; a second call does nothing."""
    if _saved:
        return
    with torch.device("cpu"):
        # torch records its factory functions when a device context is first used. It must record the originals, or
        # `with torch.device("meta")`, with which transformers builds models, would ignore the functions replaced here.
        torch.empty(0)
    for owner, name, make in _redirects():
        original = getattr(owner, name)
        _saved[(owner, name)] = original
        setattr(owner, name, make(original))


def remove() -> None:
    """Undo the redirects of `install`."""
    for (owner, name), original in _saved.items():
        setattr(owner, name, original)
    _saved.clear()


def _redirects() -> Iterator[tuple[Any, str, Callable[[Any], Any]]]:
    # Each entry is necessary: without it megatron-core raises, or dropout is not reproducible (the last two).
    yield torch.cuda, "current_device", lambda _: lambda: torch.device("cpu")
    yield torch.cuda, "synchronize", lambda _: lambda *_args: None
    yield torch.cuda, "get_rng_state", lambda _: lambda *_args, **_kwargs: torch.get_rng_state()
    yield torch.cuda, "manual_seed", lambda _: torch.manual_seed
    yield torch, "zeros", _on_host
    yield torch, "tensor", _on_host
    yield torch.Tensor, "cuda", lambda _: lambda tensor, *_args, **_kwargs: tensor
    yield torch.Tensor, "type", _type_named_as_cuda
    # For speed: megatron-core compiles functions at import, and importing the compiler takes a third of the start-up.
    yield torch, "compile", lambda _: _uncompiled
    if bf16_emulation.is_bf16_emulated():
        yield torch, "matmul", bf16_emulation.multiply_in_float32
        yield torch, "bmm", bf16_emulation.multiply_in_float32
        yield torch.Tensor, "matmul", bf16_emulation.multiply_in_float32
        yield torch.Tensor, "__matmul__", bf16_emulation.multiply_in_float32
    # Deferred: megatron-core needs the redirects above while it is imported.
    from megatron.core.tensor_parallel import random

    yield random, "_get_cuda_rng_state", lambda _: _get_rng_state
    yield random, "_set_cuda_rng_state", lambda _: _set_rng_state


def _on_host(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def create(*args: Any, **kwargs: Any) -> torch.Tensor:
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        return factory(*args, **kwargs)

    return create


def _uncompiled(function: Any = None, **_kwargs: Any) -> Any:
    return _uncompiled if function is None else function


def _type_named_as_cuda(original: Callable[..., Any]) -> Callable[..., Any]:
    def type_(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = original(tensor, *args, **kwargs)
        # megatron-core's optimizers accept only parameters whose type string says cuda.
        return result.replace("torch.", "torch.cuda.", 1) if isinstance(result, str) else result

    return type_


def _get_rng_state(*_args: Any, **_kwargs: Any) -> torch.Tensor:
    return torch.get_rng_state()


def _set_rng_state(new_state: torch.Tensor, *_args: Any, **_kwargs: Any) -> None:
    torch.set_rng_state(new_state)

"""Lets the real MindSpeed run on the host: the reference torch_npu, and mocks of what else such a machine lacks.

MindSpeed is imported and patches megatron-core as it does for users. Only the operators that we call compute.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import torch

MOCKED = ("triton", "torchair", "acl")
IF_ABSENT = ("einops", "scipy")


class StandIn(ModuleType):
    """A package whose names are made on first use."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = MagicMock(name=f"{self.__name__}.{name}")
        setattr(self, name, made)
        return made


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Serves stand-ins for some packages and all below them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The spec of a stand-in."""
        if name.split(".")[0] not in self._names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """The stand-in itself."""
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Give triton what is read while MindSpeed is imported."""
        if module.__name__ == "triton.runtime.driver":
            module.active.get_current_target.return_value.backend = "npu"
        if module.__name__ == "triton":
            module.__version__ = "3.4.0"  # type: ignore[attr-defined]
            # Decorators leave what they decorate as it is, with or without arguments.
            for name in ("jit", "autotune", "heuristics"):
                setattr(module, name, lambda *args, **_: args[0] if args and callable(args[0]) else lambda f: f)


def install(mindspeed: str, reference: Path) -> None:
    """Make MindSpeed's checkout and the reference torch_npu importable, and serve the stand-ins from now on."""
    # MindSpeed first: beside the reference torch_npu lies a reference of it.
    sys.path[:0] = [mindspeed, str(reference)]
    absent = [name for name in IF_ABSENT if importlib.util.find_spec(name) is None]
    sys.meta_path.insert(0, Finder([*MOCKED, *absent]))
    # Last: what the reference has is its own.
    sys.meta_path.append(Finder(["torch_npu"]))
    library = importlib.import_module("torch_npu")
    library.__class__ = library.npu.__class__ = StandIn
    library.npu.get_device_name = lambda *_: "Ascend910B"
    library.npu._lazy_call = lambda *_args, **_kwargs: None
    torch.npu = library.npu  # type: ignore[attr-defined]

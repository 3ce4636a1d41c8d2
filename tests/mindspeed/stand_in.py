"""Stand-ins for what MindSpeed imports and a machine without NPUs lacks: modules whose every name is a mock.

They let the real MindSpeed be imported and patch megatron-core. Only the operators that we call compute: they are those
of the reference torch_npu.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import torch

from tests.support.npu_facts import V27, operators

REFERENCE = "tests.support.reference_npu.torch_npu"
NAMES = ("torch_npu", "triton", "torchair", "acl")
IF_ABSENT = ("einops", "scipy")


class StandIn(ModuleType):
    """A package whose names are made when they are asked for."""

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
        """Give torch_npu what is looked at while MindSpeed is imported."""
        if module.__name__ == "torch_npu":
            # MindSpeed looks for headers beside it, should it ever compile one.
            module.__file__ = __file__
            module.__version__ = V27  # type: ignore[attr-defined]
            reference = importlib.import_module(REFERENCE)
            vars(module).update({name: getattr(reference, name) for name in operators(V27)})
            npu = module.npu
            npu.current_device = lambda: torch.device("cpu")
            npu.get_device_name = lambda *_: "Ascend910B"
            npu.set_device = lambda _: None
            npu.Stream = torch.Stream
            npu._lazy_call = lambda *_args, **_kwargs: None
            torch.npu = npu
        if module.__name__ == "triton.runtime.driver":
            module.active.get_current_target.return_value.backend = "npu"
        if module.__name__ == "triton":
            module.__version__ = "3.4.0"
            # Decorators leave what they decorate as it is, with or without arguments.
            for name in ("jit", "autotune", "heuristics"):
                setattr(module, name, lambda *args, **_: args[0] if args and callable(args[0]) else lambda f: f)


def install() -> None:
    """Serve the stand-ins from now on."""
    absent = [name for name in IF_ABSENT if importlib.util.find_spec(name) is None]
    sys.meta_path.insert(0, Finder([*NAMES, *absent]))

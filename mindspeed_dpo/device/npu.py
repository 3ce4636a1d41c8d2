"""Start-up on Ascend NPUs: torch_npu, then MindSpeed's adaptor with a clean argv, then `repatch`.

Written from public facts; not yet run on a device. The order matters at every step: MindSpeed must patch before the
first megatron import, parses `sys.argv` while it is imported, and resets the root logger and the warning filters.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mindspeed_dpo.device.collective_guards import guard_collectives

logger = logging.getLogger(__name__)

# Without flash attention MindSpeed builds a dense mask; its validation reads the other keys.
BASE_SETTINGS: dict[str, Any] = {
    "use_flash_attn": True,
    "use_fused_rmsnorm": True,
    "use_fused_swiglu": True,
    "swiglu": True,
    "use_fused_rotary_pos_emb": True,
    "position_embedding_type": "rope",
}
NUMPY_BELOW = 2
"""MindSpeed requires numpy 1.26."""


def initialize(settings: Mapping[str, Any]) -> Any:
    """Import torch_npu and MindSpeed and apply MindSpeed's patches for the given settings.

    Returns:
        The module torch_npu.

    Raises:
        RuntimeError: torch_npu or MindSpeed is missing or does not load, or megatron was imported before.
    """
    if "megatron.core" in sys.modules:
        raise RuntimeError("device=npu: megatron was imported before MindSpeed's adaptor; activate the device first")
    library = _import(
        "torch_npu",
        "install the torch_npu wheel that matches torch, and source CANN's set_env.sh before the start (of Ray too)",
    )
    with _preserved_argv_and_logging():
        adaptor = _import("mindspeed.megatron_adaptor", "install MindSpeed, branch core_r0.16.0, with --no-deps")
        adaptor.repatch({**BASE_SETTINGS, **settings})
    guard_collectives()
    _warn_of_numpy(importlib.metadata.version("numpy"))
    return library


def _warn_of_numpy(version: str) -> None:
    if int(version.split(".")[0]) >= NUMPY_BELOW:
        logger.warning(
            "device=npu: numpy %s is installed, MindSpeed requires numpy below %d; pip install 'numpy<%d' if its "
            "modules fail",
            version,
            NUMPY_BELOW,
            NUMPY_BELOW,
        )


def _import(name: str, remedy: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        raise RuntimeError(f"device=npu: cannot import {name} ({error}); {remedy}") from error


@contextmanager
def _preserved_argv_and_logging() -> Iterator[None]:
    root = logging.getLogger()
    argv, level, handlers, filters = sys.argv, root.level, root.handlers[:], warnings.filters[:]
    sys.argv = argv[:1]
    try:
        yield
    finally:
        sys.argv = argv
        root.setLevel(level)
        root.handlers[:] = handlers
        warnings.filters[:] = filters  # type: ignore[index]

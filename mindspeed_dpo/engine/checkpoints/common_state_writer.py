"""Writer of `common.pt`, whose errors name their cause and reach all ranks.

megatron-core's own reports a full disk as `iostream error`, on rank 0 only, while the others wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.strategies.base import StrategyAction, register_default_strategy
from megatron.core.dist_checkpointing.strategies.common import TorchCommonSaveStrategy

from mindspeed_dpo.engine.checkpoints.checkpoint_reader import COMMON_FILE
from mindspeed_dpo.engine.checkpoints.checkpoint_tensor_writer import DigestedFiles

_FORMAT = ("torch", 1)


class CommonStateSave(TorchCommonSaveStrategy):
    """Writes `common.pt` on rank 0 through `files`, which keeps an error for the writers of tensors to raise."""

    def __init__(self, files: DigestedFiles) -> None:
        super().__init__(*_FORMAT)
        self._files = files

    def save_common(self, common_state_dict: dict[str, Any], checkpoint_dir: str | Path) -> None:
        """Write the values that all ranks have in common."""
        if dist.get_rank() != 0:
            return
        path = Path(checkpoint_dir) / COMMON_FILE
        try:
            with self._files.create_stream(path, "wb") as stream:
                torch.save(common_state_dict, cast(IO[bytes], stream))
        except OSError as error:
            self._files.error = self._files.error or OSError(error.errno, error.strerror, str(path))
        except RuntimeError:
            if self._files.error is None:
                raise


@contextmanager
def common_state_written_by(files: DigestedFiles) -> Iterator[None]:
    """Let megatron-core write `common.pt` through `files` within the block; it takes no writer as an argument."""
    register_default_strategy(StrategyAction.SAVE_COMMON, *_FORMAT, CommonStateSave(files))
    try:
        yield
    finally:
        register_default_strategy(StrategyAction.SAVE_COMMON, *_FORMAT, TorchCommonSaveStrategy(*_FORMAT))

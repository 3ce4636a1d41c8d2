"""The lock on a run's output folder and folder of checkpoints, so that no second run writes to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.storage.process_lock import LockHeldError, ProcessLock
from mindspeed_dpo.storage.user_paths import real_path
from mindspeed_dpo.storage.write_errors import try_folder, writable_folder_advice, write_errors

RUN_LOCK = ".run.lock"


class OutputInUseError(ValueError):
    """Another run writes to a folder of this run."""


@contextmanager
def run_locks(run: RunConfig) -> Iterator[None]:
    """Hold the locks of a run's output folder and folder of checkpoints within the block.

    The locks end with this process, however it ends.

    Raises:
        OutputInUseError: Another run holds one of them.
        WriteError: A folder cannot be created or written.
    """
    with ExitStack() as stack:
        for key, folder in _locked_folders(run).items():
            stack.enter_context(_folder_lock(key, folder))
        yield


def check_unlocked(run: RunConfig) -> None:
    """Check, without taking them, that the locks of `run_locks` could be taken.

    Raises:
        OutputInUseError: Another run holds one of them.
        WriteError: A folder cannot be created or written.
    """
    for key, folder in _locked_folders(run).items():
        try_folder(folder, writable_folder_advice(key))
        with write_errors(folder, writable_folder_advice(key)):
            holder = ProcessLock(folder / RUN_LOCK).holder()
        if holder is not None:
            raise OutputInUseError(_in_use(key, folder, holder))


def _locked_folders(run: RunConfig) -> dict[str, Path]:
    folders = {"output_dir": Path(run.loop.output_dir), "save": Path(run.actor.checkpoint.save)}
    if real_path(folders["output_dir"]) == real_path(folders["save"]):
        del folders["save"]
    return folders


def _in_use(key: str, folder: Path, holder: str) -> str:
    return f"{key}={folder} is in use by another run, {holder}; wait for it to end, or set {key} to another folder"


@contextmanager
def _folder_lock(key: str, folder: Path) -> Iterator[None]:
    existed_before = folder.is_dir()
    with ExitStack() as stack:
        with write_errors(folder, writable_folder_advice(key)):
            folder.mkdir(parents=True, exist_ok=True)
            if not existed_before:
                stack.callback(_remove_if_empty, folder)
            try:
                stack.enter_context(ProcessLock(folder / RUN_LOCK))
            except LockHeldError as error:
                raise OutputInUseError(_in_use(key, folder, error.holder)) from None
        yield


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()

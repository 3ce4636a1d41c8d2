"""Errors of saving a checkpoint as one sentence that names the root cause.

torch.distributed.checkpoint collects the errors of all ranks in a `CheckpointException`, which is not an `Exception`
and whose first line names only the ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.distributed.checkpoint.api import CheckpointException

from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import EARLIER_ARE_COMPLETE, CheckpointError
from mindspeed_dpo.storage.write_errors import WriteError, write_failure


@contextmanager
def save_errors(folder: Path) -> Iterator[None]:
    """Turn errors of writing a checkpoint into one that names the file and the cause.

    Raises:
        CheckpointError: The block failed.
    """
    try:
        yield
    except (CheckpointException, OSError, RuntimeError) as error:
        raise CheckpointError(f"{_write_sentence(folder, root_cause(error))}{EARLIER_ARE_COMPLETE}") from error


def root_cause(error: BaseException) -> BaseException:
    """Return what made the first rank fail; errors of the system come before their consequences."""
    if not isinstance(error, CheckpointException):
        return error
    causes = [cause for _, (cause, _) in sorted(error.failures.items())]
    return next((cause for cause in causes if isinstance(cause, OSError)), causes[0])


def _write_sentence(folder: Path, cause: BaseException) -> str:
    if isinstance(cause, WriteError):
        return str(cause)
    if isinstance(cause, OSError):
        return write_failure(cause.filename or folder, cause)
    return f"{folder} cannot be written: {_first_line(cause)}"


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"

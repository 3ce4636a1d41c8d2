"""Log files per role and rank, and the console of the driver.

Only handlers made here are ever removed, and closing puts the root logger back as it was, so libraries and tests that
configure logging themselves are left alone.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

FORMAT = "[%(asctime)s] %(levelname)s %(name)s: %(message)s"
CONSOLE_FORMAT = "[%(asctime)s] %(message)s"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
PACKAGE = "mindspeed_dpo"
# `extra=` of a line that the user has seen already: it goes to the file only.
FILE_ONLY = {"shown": True}


class LogSession:
    """The handlers one process added to the root logger.

    Attributes:
        path: The log file of this role and rank, or None without an output folder.
    """

    def __init__(self, path: Path | None, handlers: list[logging.Handler], level: int) -> None:
        self.path = path
        self._handlers = handlers
        self._level_before = logging.getLogger().level
        self._level = level
        self.attach()

    def attach(self) -> None:
        """Add the handlers to the root logger; call it again after a library has reset that logger."""
        root = logging.getLogger()
        root.setLevel(self._level)
        # Our own details go into the file; the console and other libraries keep to their levels.
        logging.getLogger(PACKAGE).setLevel(logging.DEBUG)
        for handler in self._handlers:
            root.addHandler(handler)  # does nothing where the handler is there already

    def close(self) -> None:
        """Remove the handlers and restore the root logger's level; a second call does nothing."""
        root = logging.getLogger()
        for handler in self._handlers:
            root.removeHandler(handler)
            handler.close()
        if self._handlers:
            root.setLevel(self._level_before)
            logging.getLogger(PACKAGE).setLevel(logging.NOTSET)
        self._handlers = []

    def __enter__(self) -> LogSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start_logging(
    output_dir: str | Path | None,
    role: str,
    rank: int = 0,
    *,
    level: int = logging.INFO,
    console_level: int | None = None,
) -> LogSession:
    """Log to `<output_dir>/logs/<role>_<rank>.log`, and to standard error if asked to.

    Args:
        output_dir: Folder of the run; None for no file.
        role: Name of the role, e.g. "driver" or "actor".
        rank: Rank of this process within its role.
        level: Lowest level that is logged at all.
        console_level: Lowest level shown on standard error; None for nothing. The driver shows INFO, workers WARNING.
    """
    handlers: list[logging.Handler] = []
    path = None
    if output_dir is not None:
        path = Path(output_dir) / "logs" / f"{role}_{rank}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        file_handler = logging.FileHandler(path, encoding="utf-8")
        file_handler.setFormatter(logging.Formatter(FORMAT, TIME_FORMAT))
        handlers.append(file_handler)
    if console_level is not None:
        console = _Console(console_level)
        console.setFormatter(logging.Formatter(CONSOLE_FORMAT, TIME_FORMAT))
        handlers.append(console)
    return LogSession(path, handlers, level)


class _Console(logging.Handler):
    """Writes to whatever `sys.stderr` is at that moment, so that a live progress bar can keep below the lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record and flush."""
        if getattr(record, "shown", False):
            return
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):  # the terminal is gone; training is not
            self.handleError(record)

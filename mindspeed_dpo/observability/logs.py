"""Log files per role and rank, and the console of the driver.

Only handlers created here are removed, and closing restores the root logger, so libraries and tests that configure
logging themselves are unaffected.
"""

from __future__ import annotations

import logging
import sys
import threading
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

from mindspeed_dpo.storage.write_errors import WriteError, writable_folder_advice, write_errors, write_failure

FORMAT = "[%(asctime)s] %(levelname)s %(name)s: %(message)s"
CONSOLE_FORMAT = "[%(asctime)s] %(message)s"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
PACKAGE = "mindspeed_dpo"
# A full log file is renamed to `….log.1`, and so on; the oldest one is removed.
FILE_BYTES = 32 * 1024 * 1024
NUM_OLD_FILES = 3
# On a terminal the date would take a third of a line; the log file has it.
TERMINAL_TIME_FORMAT = "%H:%M:%S"
PLAIN_FORMAT = "%(message)s"
# Pass as `extra=` for a message that was already printed, or has another form on the console.
FILE_ONLY = {"file_only": True}
# Pass as `extra=` for a line of the console that the log file has in another form; it is printed as it is.
CONSOLE_ONLY = {"console_only": True}


class LogSession:
    """The handlers one process added to the root logger.

    Attributes:
        path: The log file of this role and rank; None for the console only.
    """

    def __init__(self, path: Path | None, handlers: list[logging.Handler]) -> None:
        self.path = path
        self._handlers = handlers
        self._level_before = logging.getLogger().level
        self.attach()

    def attach(self) -> None:
        """Add the handlers to the root logger; call it again after a library has reset that logger."""
        root = logging.getLogger()
        root.setLevel(logging.INFO)
        # Debug messages of this package go to the file; the console and other libraries have their own levels.
        logging.getLogger(PACKAGE).setLevel(logging.DEBUG)
        for handler in self._handlers:
            root.addHandler(handler)  # no effect if the handler is already attached

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


def logs_folder(output_dir: str | Path) -> Path:
    """Return the folder of a run's log files."""
    return Path(output_dir) / "logs"


def start_logging(output_dir: str | Path, role: str, rank: int = 0, *, console_level: int | None = None) -> LogSession:
    """Log to `<output_dir>/logs/<role>_<rank>.log`, and optionally to standard error.

    Args:
        output_dir: Folder of the run.
        role: Name of the role, e.g. "driver" or "actor".
        rank: Rank of this process within its role.
        console_level: Lowest level shown on standard error; None for nothing. The driver shows INFO, workers WARNING.

    Raises:
        WriteError: The file cannot be created.
    """
    path = logs_folder(output_dir) / f"{role}_{rank}.log"
    with write_errors(path, writable_folder_advice("output_dir")):
        path.parent.mkdir(parents=True, exist_ok=True)
        file_handler = _LogFile(path)
    file_handler.setFormatter(logging.Formatter(FORMAT, TIME_FORMAT))
    handlers: list[logging.Handler] = [file_handler]
    if console_level is not None:
        handlers.append(_console(console_level))
    return LogSession(path, handlers)


def log_to_console(level: int = logging.INFO, *, timestamps: bool = True) -> LogSession:
    """Log to standard error only.

    Args:
        level: Lowest level shown.
        timestamps: Begin lines with the time.
    """
    return LogSession(None, [_console(level, CONSOLE_FORMAT if timestamps else PLAIN_FORMAT)])


def _console(level: int, form: str = CONSOLE_FORMAT) -> logging.Handler:
    console = _Console(level)
    console.setFormatter(logging.Formatter(form, TERMINAL_TIME_FORMAT if sys.stderr.isatty() else TIME_FORMAT))
    return console


class _LogFile(RotatingFileHandler):
    """A log file that is renamed when it is full.

    The first failed write ends the run with one error instead of a traceback per record.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=FILE_BYTES, backupCount=NUM_OLD_FILES, encoding="utf-8")
        self._path = path
        self._error: OSError | None = None
        self._is_raised = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, unless an earlier one could not be written.

        Raises:
            WriteError: A record could not be written. It is raised once, by a message of this package that reports no
                error itself.
        """
        if getattr(record, "console_only", False):
            return
        if self._error is None:
            super().emit(record)
        is_own = record.name.partition(".")[0] == PACKAGE and record.levelno < logging.ERROR
        if self._error is not None and not self._is_raised and is_own and _is_main_thread():
            self._is_raised = True
            raise WriteError(write_failure(self._path, self._error))

    def handleError(self, record: logging.LogRecord) -> None:
        """Store a failed write; other errors are printed as logging does."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._error = error
        else:
            super().handleError(record)

    def close(self) -> None:
        """Close the file; buffered bytes that the disk does not take are lost."""
        with suppress(OSError):
            super().close()


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class _Console(logging.Handler):
    """Writes to the current `sys.stderr`, which the live status redirects to stay below the lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record and flush."""
        if getattr(record, "file_only", False):
            return
        try:
            text = record.getMessage() if getattr(record, "console_only", False) else self.format(record)
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
        except (OSError, ValueError):  # a closed terminal must not stop training
            self.handleError(record)

"""Log files: their place, their content, and a root logger left as it was."""

from __future__ import annotations

import errno
import io
import logging
from pathlib import Path

import pytest

from mindspeed_dpo.observability import logs
from mindspeed_dpo.observability.logs import LogSession, start_logging
from mindspeed_dpo.storage.write_errors import WriteError


def test_each_role_and_rank_has_its_file(tmp_path: Path) -> None:
    with start_logging(tmp_path, "actor", 3) as session:
        logging.getLogger("anything").info("hello")
    assert session.path == tmp_path / "logs" / "actor_3.log"
    assert session.path.read_text().endswith("INFO anything: hello\n")


def test_the_root_logger_is_left_as_it_was(tmp_path: Path) -> None:
    root = logging.getLogger()
    foreign = logging.NullHandler()
    root.addHandler(foreign)
    before, level = root.handlers[:], root.level
    try:
        session = start_logging(tmp_path, "driver", console_level=logging.INFO)
        assert root.level == logging.INFO and len(root.handlers) == len(before) + 2
        session.close()
        session.close()
        assert root.handlers == before and root.level == level
    finally:
        root.removeHandler(foreign)


def test_handlers_return_after_a_library_reset_the_root_logger(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = root.handlers[:]
    with start_logging(tmp_path, "actor") as session:
        root.handlers[:] = before
        root.setLevel(logging.ERROR)
        session.attach()
        session.attach()
        logging.getLogger("x").info("still here")
    assert session.path.read_text().count("still here") == 1


def test_the_console_shows_its_level_and_above_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with start_logging(tmp_path, "actor", console_level=logging.WARNING):
        logging.getLogger("x").info("quiet")
        logging.getLogger("x").warning("loud")
    shown = capsys.readouterr()
    assert "loud" in shown.err and "quiet" not in shown.err and shown.out == ""


def test_two_runs_of_a_role_append_to_its_file(tmp_path: Path) -> None:
    for word in ("first", "second"):
        with start_logging(tmp_path, "actor"):
            logging.getLogger("x").info(word)
    text = (tmp_path / "logs" / "actor_0.log").read_text()
    assert "first" in text and "second" in text


class FullStream(io.StringIO):
    """A stream whose disk is full after some bytes."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def fill_disk(session: LogSession) -> None:
    for handler in session._handlers:
        if isinstance(handler, logging.FileHandler):
            handler.stream.close()
            handler.stream = FullStream()  # type: ignore[assignment]


def test_a_full_disk_is_one_error_of_the_package_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with start_logging(tmp_path, "driver", console_level=logging.INFO) as session:
        fill_disk(session)
        logging.getLogger("a_library").info("it need not know")
        logging.getLogger("mindspeed_dpo.x").error("what an error reports must not be replaced")
        with pytest.raises(WriteError, match=r"logs/driver_0\.log cannot be written: No space left on device; free"):
            logging.getLogger("mindspeed_dpo.x").info("a step")
        logging.getLogger("mindspeed_dpo.x").info("the next one")
    shown = capsys.readouterr().err
    assert "Logging error" not in shown and "Traceback" not in shown
    assert "must not be replaced" in shown and "the next one" in shown


def test_a_message_that_cannot_be_formatted_is_no_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with start_logging(tmp_path, "driver") as session:
        # Passed to the handlers of the session alone, since pytest's own raises.
        record = logging.makeLogRecord(
            {"name": "mindspeed_dpo.x", "levelno": logging.INFO, "msg": "%d", "args": ("no number",)}
        )
        for handler in session._handlers:
            handler.handle(record)
        logging.getLogger("mindspeed_dpo.x").info("and on")
    assert session.path is not None and "and on" in session.path.read_text()
    assert "Logging error" in capsys.readouterr().err


def test_a_full_log_file_is_renamed_and_the_oldest_one_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 2000)
    with start_logging(tmp_path, "actor"):
        for number in range(400):
            logging.getLogger("x").info("line %d", number)
    files = sorted((tmp_path / "logs").iterdir())
    assert [file.name for file in files] == [
        "actor_0.log",
        *(f"actor_0.log.{n + 1}" for n in range(logs.NUM_OLD_FILES)),
    ]
    assert all(file.stat().st_size <= 2000 for file in files)
    assert files[0].read_text().endswith("line 399\n")

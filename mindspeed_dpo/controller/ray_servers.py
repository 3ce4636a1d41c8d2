"""Watches gcs_server and raylet of a Ray that starts: the start itself would wait long for one that has ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from mindspeed_dpo.processes.driver_link import LOSS_REPORT_S, driver_link

SERVERS = ("gcs_server", "raylet")
LOOK_INTERVAL_S = 0.2


@contextmanager
def watched_servers() -> Iterator[None]:
    """Let the supervisor watch the servers that are started within the block, from the moment they exist.

    After an error they are watched no more, unless one of them has ended and so is its cause.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_watch_children, args=(ended,), daemon=True, name="servers of Ray")
    thread.start()
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) or not driver_link.loss(LOSS_REPORT_S):
            ended.set()
            thread.join()
            driver_link.stop_watching()
        raise
    finally:
        ended.set()
        thread.join()


def _watch_children(ended: threading.Event) -> None:
    watched: set[int] = set()
    is_last = False
    while not is_last:
        is_last = ended.wait(LOOK_INTERVAL_S)
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if process.pid not in watched and process.name() in SERVERS:
                    watched.add(process.pid)
                    driver_link.watch_process(process.name(), process.pid)

"""Serves a report to browsers on this machine; it is rewritten for each request after its runs have logged more."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from mindspeed_dpo.observability.metrics_jsonl import METRICS_FILE
from mindspeed_dpo.processes.interruption import keyboard_interrupts
from mindspeed_dpo.report.page import write_report

RENEWAL_S = 30
"""Seconds after which a browser asks again."""


class ReportServer(HTTPServer):
    """Serves one page at the address `/` of the loopback interface.

    Args:
        folders: Folders of the runs.
        output: The page.
        port: Port, or 0 for a free one.
    """

    def __init__(self, folders: Sequence[Path], output: Path, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self._folders, self._output = folders, output
        self._state = self._logged()

    @property
    def place(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def page(self) -> bytes:
        """Return the page, rewritten if its runs have logged more."""
        state = self._logged()
        if state != self._state:
            write_report(self._folders, self._output)
            self._state = state
        return self._output.read_bytes()

    def _logged(self) -> list[tuple[int, int]]:
        files = [folder / METRICS_FILE for folder in self._folders]
        states = [file.stat() for file in files if file.is_file()]
        return [(state.st_size, state.st_mtime_ns) for state in states]


class _Handler(BaseHTTPRequestHandler):
    """Answers GET of the page, and nothing else."""

    server: ReportServer

    def do_GET(self) -> None:
        """Send the page."""
        if self.path.partition("?")[0] != "/":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            page = self.server.page()
        except (OSError, ValueError) as error:
            sys.stderr.write(f"{error}\n")
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        self.send_response(HTTPStatus.OK)
        headers = {"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store", "Refresh": RENEWAL_S}
        for name, value in {**headers, "Content-Length": len(page)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *args: Any) -> None:
        """Print no line per request."""


def serve(folders: Sequence[Path], output: Path, port: int, announce: Callable[[str], object]) -> None:
    """Serve until Ctrl-C.

    Args:
        folders: Folders of the runs.
        output: The page.
        port: Port, or 0 for a free one.
        announce: Called with a line that says where the page is.

    Raises:
        OSError: The port cannot be used.
    """
    with ReportServer(folders, output, port) as server:
        announce(f"the report is at {server.place}; Ctrl-C ends this")
        sys.stdout.flush()
        try:
            with keyboard_interrupts():
                server.serve_forever()
        except KeyboardInterrupt:
            announce("")

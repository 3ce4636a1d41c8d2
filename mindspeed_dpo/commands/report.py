"""Writes the page of one or more runs, or serves it on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mindspeed_dpo.report.page import REPORT_FILE, write_report
from mindspeed_dpo.report.run_folder import NotARunError
from mindspeed_dpo.report.serving import serve
from mindspeed_dpo.storage.user_paths import NoHomeFolderError, expanded_path
from mindspeed_dpo.storage.write_errors import WriteError, failure_sentence

USAGE_ERROR, FAILURE = 2, 1


def main(arguments: Sequence[str] | None = None, program: str = "mindspeed-dpo report") -> int:
    """Run the command line and return its exit code: 0, 1 if the page cannot be written, 2 for a folder without run."""
    options = _parser(program).parse_args(arguments)
    output = options.output
    try:
        runs = [expanded_path(run) for run in options.runs]
        default = Path(REPORT_FILE) if len(runs) > 1 else runs[0] / REPORT_FILE
        output = expanded_path(output) if output else default
        write_report(runs, output)
        sys.stdout.write(f"wrote {output}\n")
        if options.serve:
            serve(runs, output, options.port, lambda place: sys.stdout.write(f"{place}\n"))
    except NotARunError as error:
        sys.stderr.write(f"{program}: {error}\n")
        return USAGE_ERROR
    except OSError as error:
        is_named = error.filename is not None or isinstance(error, (WriteError, NoHomeFolderError))
        place = "" if is_named else f"{output} cannot be served: "
        sys.stderr.write(f"{program}: {place}{failure_sentence(error)}\n")
        return FAILURE
    return 0


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description="Write the page of a run, or of several side by side.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output_dir of a run")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"the page; by default {REPORT_FILE} in the run's folder, of several runs in the working directory",
    )
    parser.add_argument(
        "--serve", action="store_true", help="show the page at an address of this machine, renewed while a run trains"
    )
    parser.add_argument("--port", type=int, default=0, metavar="N", help="port of --serve; by default a free one")
    return parser

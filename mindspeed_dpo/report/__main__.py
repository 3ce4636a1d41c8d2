"""Writes the page of one run and prints the CPU seconds this took; training starts it in a process of its own."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

from mindspeed_dpo.report.page import REPORT_FILE, write_report
from mindspeed_dpo.report.run_folder import NotARunError

LOWEST_PRIORITY = 19
CPU_LIMIT_S = 60
"""Processor time after which the process ends, whatever the run has written."""


def main() -> int:
    """Write the page of the folder that the command line names; 1 with one sentence if this fails."""
    os.nice(LOWEST_PRIORITY)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
    folder = Path(sys.argv[1])
    try:
        write_report([folder], folder / REPORT_FILE)
    except (NotARunError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{time.process_time():.3f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

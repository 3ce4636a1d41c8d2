"""The command: `python -m mindspeed_dpo.doctor [--config-name NAME section.key=value ...]`.

Exit code 0 where nothing needs to be fixed, 1 where something does, 2 for a wrong option.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from mindspeed_dpo.doctor.checks import examine
from mindspeed_dpo.doctor.findings import FIX, Finding
from mindspeed_dpo.doctor.machine import Machine
from mindspeed_dpo.doctor.report import as_json, group_text, summary
from mindspeed_dpo.doctor.request import KINDS, Request, find_kind, of_configuration

TIMEOUT_S = 120.0


def main(arguments: Sequence[str] | None = None, machine: Machine | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_intermixed_args(arguments)
    machine = machine or Machine(options.timeout)
    request = _request(options, machine)
    groups: dict[str, list[Finding]] = {}
    if not options.json:
        sys.stdout.write(f"checked for {request.kind}\n\n")
    for title, findings in examine(request, machine):
        groups[title] = findings
        if not options.json:
            sys.stdout.write(group_text(title, findings))
            sys.stdout.flush()
    found = [finding for findings in groups.values() for finding in findings]
    sys.stdout.write(as_json(request.kind, groups) if options.json else summary(found))
    return int(any(finding.verdict == FIX for finding in found))


def _request(options: argparse.Namespace, machine: Machine) -> Request:
    asked = Request("auto")
    if options.config_name:
        asked = of_configuration(options.config_name, tuple(options.overrides), options.config_dir)
    return replace(
        asked,
        kind=find_kind(options.device or asked.kind, machine),
        address=options.address or asked.address,
        start_ray=options.start_ray,
        reads=(*asked.reads, *map(os.path.abspath, options.path)),
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise ValueError
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mindspeed_dpo.doctor",
        description="Check an installation, and say for each line ok or what to do.",
        allow_abbrev=False,
    )
    parser.add_argument("--config-name", "-cn", metavar="NAME", help="check what this configuration needs, too")
    parser.add_argument("--config-dir", "--config-path", "-cd", metavar="DIR", help="a folder with configurations")
    parser.add_argument("--device", choices=KINDS, help="check for it (default: the configuration's, else the best)")
    parser.add_argument("--path", action="append", default=[], metavar="PATH", help="should be readable on every node")
    parser.add_argument("--address", metavar="HOST:PORT", help="of a Ray cluster (default: the one that runs here)")
    parser.add_argument(
        "--start-ray", action="store_true", help="start a Ray on this machine for the check, and end it"
    )
    parser.add_argument(
        "--timeout", type=_seconds, default=TIMEOUT_S, metavar="SECONDS", help="of each try (default: %(default)g)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="with --config-name")
    return parser


if __name__ == "__main__":
    sys.exit(main())

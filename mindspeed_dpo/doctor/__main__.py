"""The command `python -m mindspeed_dpo.doctor [--config-name NAME section.key=value ...]`.

Exit codes: 0 if there is nothing to fix, 1 if there is, 2 for an invalid option or a configuration that cannot be read.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from mindspeed_dpo.doctor.checks import run_checks
from mindspeed_dpo.doctor.findings import FIX, Finding
from mindspeed_dpo.doctor.machine import Machine
from mindspeed_dpo.doctor.report import as_json, group_text, summary
from mindspeed_dpo.doctor.request import KINDS, Request, request_from_config, resolve_kind

PROGRAM = "python -m mindspeed_dpo.doctor"
TIMEOUT_S = 120.0
USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None, machine: Machine | None = None, program: str = PROGRAM) -> int:
    """Run the command line and return its exit code; `program` is its name in messages."""
    options = _parser(program).parse_intermixed_args(arguments)
    machine = machine or Machine(options.timeout)
    request = _request(options, machine)
    if request.is_unreadable:
        sys.stderr.write("".join(f"{program}: {problem}\n" for problem in request.problems))
        return USAGE_ERROR
    groups: dict[str, list[Finding]] = {}
    if not options.json:
        sys.stdout.write(f"device: {request.kind}\n\n")
    for title, findings in run_checks(request, machine):
        groups[title] = findings
        if not options.json:
            sys.stdout.write(group_text(title, findings))
            sys.stdout.flush()
    all_findings = [finding for findings in groups.values() for finding in findings]
    sys.stdout.write(as_json(request.kind, groups) if options.json else summary(all_findings))
    return int(any(finding.verdict == FIX for finding in all_findings))


def _request(options: argparse.Namespace, machine: Machine) -> Request:
    request = Request("auto")
    if options.config_name:
        request = request_from_config(options.config_name, tuple(options.overrides), options.config_dir)
    return replace(
        request,
        kind=resolve_kind(options.device or request.kind, machine),
        address=options.address or request.address,
        start_ray=options.start_ray,
        reads=(*request.reads, *map(os.path.abspath, options.path)),
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise ValueError
    return value


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Check an installation and report for each check ok or what to do.",
        allow_abbrev=False,
    )
    parser.add_argument("--config-name", "-cn", metavar="NAME", help="also check what this configuration needs")
    parser.add_argument("--config-dir", "--config-path", "-cd", metavar="DIR", help="folder with configurations")
    parser.add_argument(
        "--device", choices=KINDS, help="device to check for (default: the configuration's, else the best)"
    )
    parser.add_argument(
        "--path", action="append", default=[], metavar="PATH", help="path that must be readable on every node"
    )
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="address of a Ray cluster (default: the one on this machine)"
    )
    parser.add_argument(
        "--start-ray", action="store_true", help="start a Ray cluster on this machine for the check, and stop it"
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=TIMEOUT_S,
        metavar="SECONDS",
        help="limit for each probe (default: %(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="overrides, with --config-name")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""The versions this project is made for, in one table, and the check of what is installed against it.

pyproject.toml and docs/ascend.md say the same; a test compares the three. Release numbers are compared here in a few
lines, because a library for it might be what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile, zip_longest

from mindspeed_dpo.doctor.findings import Finding, absent, fix, note, ok
from mindspeed_dpo.doctor.machine import Machine
from mindspeed_dpo.doctor.request import Request


@dataclass(frozen=True)
class Wanted:
    """A package and its versions.

    Attributes:
        accepted: Versions the project may be installed with, as pyproject.toml writes them.
        ascend: Versions beside torch_npu and MindSpeed; read in the vendor's sources, not run on a device.
        run: With which this project's tests have run, on the CPU; `-` where they never have.
        npu_only: Whether it is needed on NPUs alone.
    """

    accepted: str
    ascend: str
    run: str
    npu_only: bool = False


PYTHON = Wanted(">=3.10", ">=3.10,<3.11", "3.11")
PACKAGES = {
    "torch": Wanted(">=2.7", "==2.7.1", "2.13.0"),
    "torch_npu": Wanted("==2.7.1.post4", "==2.7.1.post4", "-", npu_only=True),
    "megatron-core": Wanted(">=0.16,<0.17", ">=0.16,<0.17", "0.16.1"),
    "ray": Wanted(">=2.40", ">=2.40", "2.60.0"),
    "transformers": Wanted(">=4.51,<6", ">=4.51,<6", "5.24.0"),
    "numpy": Wanted(">=1.26", ">=1.26,<2", "2.4.6"),
    "triton-ascend": Wanted("", "", "-", npu_only=True),
    "einops": Wanted(">=0.8", ">=0.8", "-", npu_only=True),
    "scipy": Wanted(">=1.11", ">=1.11", "-", npu_only=True),
}
CANN = "9.0.0"
MINDSPEED_BRANCH = "core_r0.16.0"


def check_python(request: Request, machine: Machine) -> Iterable[Finding]:
    """Check the version of Python."""
    found, wanted = machine.python(), PYTHON
    if not fits(found, wanted.accepted):
        yield fix(found, f"make an environment with Python {wanted.accepted}", "Python")
    elif request.kind == "npu" and not fits(found, wanted.ascend):
        yield note(found, f"the vendor's branch names Python {wanted.ascend}; others are not verified", "Python")
    else:
        yield ok(found, "Python")


def check_packages(request: Request, machine: Machine) -> Iterable[Finding]:
    """Each package of the table."""
    for package, wanted in PACKAGES.items():
        if wanted.npu_only and request.kind != "npu":
            yield absent(request.no_npu, package)
        else:
            yield _package(package, wanted, request, machine)


def _package(package: str, wanted: Wanted, request: Request, machine: Machine) -> Finding:
    on_npu = request.kind == "npu"
    specifier = wanted.ascend if on_npu else wanted.accepted
    found = machine.version(package)
    install = _install(package, specifier, on_npu)
    if found is None:
        return fix("is not installed", install, package)
    if not fits(found, specifier):
        why = " beside torch_npu and MindSpeed" if on_npu and wanted.ascend != wanted.accepted else ""
        return fix(f"{found}, but {specifier} is needed{why}", install, package)
    tried = "" if wanted.run in ("-", found.split("+")[0]) else f" (the tests were run with {wanted.run})"
    return ok(found + tried, package)


def _install(package: str, specifier: str, on_npu: bool) -> str:
    if package == "torch" and on_npu:
        return f"pip install 'torch{specifier}', the CPU build that the wheel of torch_npu asks for"
    return f"pip install '{package}{specifier}'"


def fits(version: str, specifier: str) -> bool:
    """Whether a version meets all of `>=a,<b`; an empty text is met by any. A local part (`+cpu`) is not looked at."""
    return all(_meets(version.split("+")[0], part.strip()) for part in specifier.split(",") if part.strip())


def _meets(version: str, part: str) -> bool:
    match = re.fullmatch(r"(==|>=|<=|<|>)(.+)", part)
    if match is None:
        raise ValueError(f"{part!r} is no condition on a version")
    sign, bound = match[1], match[2]
    order = _compare(version, bound)
    return {"==": order == 0, ">=": order >= 0, "<=": order <= 0, "<": order < 0, ">": order > 0}[sign]


def _compare(version: str, other: str) -> int:
    ours, theirs = _parts(version), _parts(other)
    for one, two in zip_longest(ours, theirs, fillvalue=0):
        if one != two:
            return 1 if one > two else -1
    return 0


def _parts(version: str) -> list[int]:
    """Release numbers, then that of a post-release; pre-releases count as the release."""
    release, _, post = version.partition(".post")
    numbers = list(takewhile(lambda part: part is not None, (re.match(r"\d+", p) for p in release.split("."))))
    found = [int(number[0]) for number in numbers if number is not None]
    return found + [0] * (4 - len(found)) + [int(post or 0)]

"""The supported versions in one table, and the check of the installed packages against it.

A test compares the table with pyproject.toml and docs/ascend.md. Versions are compared by own code, because the checks
must also run where a library for it is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile, zip_longest

from mindspeed_dpo.doctor.findings import Finding, fix, not_checked, note, ok
from mindspeed_dpo.doctor.machine import Machine
from mindspeed_dpo.doctor.request import NO_NPU, Request


@dataclass(frozen=True)
class SupportedVersions:
    """The supported versions of a package.

    Attributes:
        accepted: Versions that pyproject.toml accepts, in its syntax.
        ascend: Versions for use with torch_npu and MindSpeed; from the vendor's sources, not run on a device.
        tested: Version with which the tests were run, on the CPU; `-` if none.
        npu_only: Whether it is needed on NPUs only.
    """

    accepted: str
    ascend: str
    tested: str
    npu_only: bool = False


PYTHON = SupportedVersions(">=3.10", ">=3.10,<3.11", "3.11")
PACKAGES = {
    "torch": SupportedVersions(">=2.7", "==2.7.1", "2.13.0"),
    "torch_npu": SupportedVersions("==2.7.1.post4", "==2.7.1.post4", "-", npu_only=True),
    "megatron-core": SupportedVersions(">=0.16,<0.17", ">=0.16,<0.17", "0.16.1"),
    "ray": SupportedVersions(">=2.40", ">=2.40", "2.60.0"),
    "transformers": SupportedVersions(">=4.51,<6", ">=4.51,<6", "5.24.0"),
    "numpy": SupportedVersions(">=1.26", ">=1.26,<2", "2.4.6"),
    "triton-ascend": SupportedVersions("", "", "-", npu_only=True),
    "einops": SupportedVersions(">=0.8", ">=0.8", "-", npu_only=True),
    "scipy": SupportedVersions(">=1.11", ">=1.11", "-", npu_only=True),
}
CANN = "9.0.0"
MINDSPEED_BRANCH = "core_r0.16.0"


def check_python(request: Request, machine: Machine) -> Iterable[Finding]:
    """Check the version of Python."""
    version = machine.python()
    if not satisfies(version, PYTHON.accepted):
        yield fix(version, f"create an environment with Python {PYTHON.accepted}", "Python")
    elif request.kind == "npu" and not satisfies(version, PYTHON.ascend):
        remedy = f"the vendor's branch requires Python {PYTHON.ascend}; other versions are not verified"
        yield note(version, remedy, "Python")
    else:
        yield ok(version, "Python")


def check_packages(request: Request, machine: Machine) -> Iterable[Finding]:
    """Check the version of each package of the table."""
    for package, supported in PACKAGES.items():
        if supported.npu_only and request.kind != "npu":
            yield not_checked(NO_NPU, package)
        else:
            yield _package(package, supported, request, machine)


def _package(package: str, supported: SupportedVersions, request: Request, machine: Machine) -> Finding:
    on_npu = request.kind == "npu"
    specifier = supported.ascend if on_npu else supported.accepted
    version = machine.version(package)
    remedy = _install_command(package, specifier, on_npu)
    if version is None:
        return fix("is not installed", remedy, package)
    if not satisfies(version, specifier):
        reason = " with torch_npu and MindSpeed" if on_npu and supported.ascend != supported.accepted else ""
        return fix(f"{version}, but {specifier} is required{reason}", remedy, package)
    is_tested = supported.tested in ("-", version.split("+")[0])
    return ok(version if is_tested else f"{version} (the tests were run with {supported.tested})", package)


def _install_command(package: str, specifier: str, on_npu: bool) -> str:
    if package == "torch" and on_npu:
        return f"pip install 'torch{specifier}', the CPU build that the torch_npu wheel requires"
    return f"pip install '{package}{specifier}'"


def satisfies(version: str, specifier: str) -> bool:
    """Return whether a version satisfies a specifier such as `>=a,<b`; an empty one accepts any version.

    The local part of the version (`+cpu`) is ignored.

    Raises:
        ValueError: The specifier has another operator.
    """
    return all(_meets(version.split("+")[0], part.strip()) for part in specifier.split(",") if part.strip())


def _meets(version: str, part: str) -> bool:
    match = re.fullmatch(r"(==|>=|<=|<|>)(.+)", part)
    if match is None:
        raise ValueError(f"{part!r} is not a version specifier")
    operator, bound = match[1], match[2]
    order = _compare(version, bound)
    return {"==": order == 0, ">=": order >= 0, "<=": order <= 0, "<": order < 0, ">": order > 0}[operator]


def _compare(version: str, other: str) -> int:
    for left, right in zip_longest(_parts(version), _parts(other), fillvalue=0):
        if left != right:
            return 1 if left > right else -1
    return 0


def _parts(version: str) -> list[int]:
    """Return the release numbers and the post-release number; a pre-release counts as its release."""
    release, _, post = version.partition(".post")
    numbers = list(takewhile(lambda part: part is not None, (re.match(r"\d+", p) for p in release.split("."))))
    parts = [int(number[0]) for number in numbers if number is not None]
    return parts + [0] * (4 - len(parts)) + [int(post or 0)]

"""Checks of CANN, driver, torch_npu and MindSpeed; written from public documents, not yet run on an NPU."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mindspeed_dpo.doctor.findings import Finding, fix, note, ok
from mindspeed_dpo.doctor.machine import Machine, ProbeError
from mindspeed_dpo.doctor.request import Request
from mindspeed_dpo.doctor.versions import CANN, MINDSPEED_BRANCH, PACKAGES

SET_ENV = "/usr/local/Ascend/ascend-toolkit/set_env.sh"
_HOMES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
# The file with the version differs between CANN releases.
_VERSION_FILES = ("version.cfg", "version.info", "*/ascend_toolkit_install.info", "compiler/version.info")
_VERSION = re.compile(
    r"^\s*(?:version|\w*running_version)\s*=\s*\[?(?:[\d.]+:)?([^\s:\]]+)", re.IGNORECASE | re.MULTILINE
)


def check_toolkit(_: Request, machine: Machine) -> Iterable[Finding]:
    """Check CANN's environment and its version."""
    home = next((machine.env[name] for name in _HOMES if machine.env.get(name)), None)
    if home is None:
        is_installed = machine.find(SET_ENV)
        install = f"install CANN {CANN} (toolkit and kernels), then source its set_env.sh"
        remedy = f"source {SET_ENV}" if is_installed else install
        yield fix(f"none of {', '.join(_HOMES)} is set", remedy, "CANN environment")
        return
    if not machine.find(home):
        yield fix(f"{home} does not exist", "source the set_env.sh of the installed CANN", "CANN environment")
        return
    yield ok(home, "CANN environment")
    yield _toolkit_version(home, machine)


def _toolkit_version(home: str, machine: Machine) -> Finding:
    name = "CANN version"
    for path in (path for file in _VERSION_FILES for path in machine.find(f"{home}/{file}")):
        match = _VERSION.search(machine.read(path) or "")
        if match and match[1].startswith(CANN):
            return ok(f"{match[1]} ({path})", name)
        if match:
            return note(f"{match[1]} ({path})", f"this project's versions are for CANN {CANN}", name)
    return note(f"no version file in {home}", f"make sure that it is CANN {CANN}", name)


def check_driver(_: Request, machine: Machine) -> Iterable[Finding]:
    """Check the driver with npu-smi."""
    if machine.program("npu-smi") is None:
        yield fix(
            "npu-smi is not on PATH",
            "install the driver; in a container, mount the host's driver folder and npu-smi (docs/ascend.md)",
        )
        return
    command = machine.run(["npu-smi", "info"])
    if command.exit_code != 0:
        remedy = "check the driver's log (dmesg) and this user's access to the devices"
        yield fix(f"npu-smi info: {command.failure}", remedy)
        return
    match = re.search(r"Version:\s*(\S+)", command.stdout)
    yield ok(f"npu-smi works, version {match[1]}" if match else "npu-smi works")


def check_device_files(_: Request, machine: Machine) -> Iterable[Finding]:
    """Check that this user can open the device files."""
    files = machine.find("/dev/davinci[0-9]*")
    locked = [path for path in files if not machine.is_accessible(path)]
    if not files:
        yield fix("there is no /dev/davinci*", "install the driver; in a container, pass the devices with --device")
    elif locked:
        yield fix(
            f"{', '.join(locked)} cannot be opened by this user",
            "add the user to the group that owns them (ls -l /dev/davinci*), or contact the administrator",
        )
    else:
        yield ok(f"{len(files)} devices")


def check_torch_npu(_: Request, machine: Machine) -> Iterable[Finding]:
    """Check that torch_npu loads and matches torch."""
    try:
        version = machine.probe("library_version", module="torch_npu")
    except ProbeError as error:
        yield fix(f"cannot be imported: {error}", _torch_npu_remedy(str(error), machine))
        return
    torch = machine.version("torch") or "unknown"
    if str(version).split(".post")[0] == torch.split("+")[0]:
        yield ok(f"{version} loads with torch {torch}")
    else:
        yield fix(
            f"{version} with torch {torch}",
            f"install matching versions: torch{PACKAGES['torch'].ascend} and torch_npu{PACKAGES['torch_npu'].ascend}",
        )


def _torch_npu_remedy(reason: str, machine: Machine) -> str:
    if machine.version("torch_npu") is None:
        return f"pip install 'torch_npu{PACKAGES['torch_npu'].ascend}'"
    if re.search(r"\.so[.\d]*: cannot open shared object", reason) or "backend extension" in reason:
        return (
            f"CANN's libraries are not on the library path: source {SET_ENV}; until then, "
            "TORCH_DEVICE_BACKEND_AUTOLOAD=0 lets torch load without the device"
        )
    return f"install torch{PACKAGES['torch'].ascend} and torch_npu{PACKAGES['torch_npu'].ascend} together"


def check_mindspeed(_: Request, machine: Machine) -> Iterable[Finding]:
    """Check the branch of MindSpeed."""
    folder = machine.package_folder("mindspeed")
    if folder is None:
        yield fix(
            "is not installed",
            f"check out the branch {MINDSPEED_BRANCH} and pip install --no-deps -e MindSpeed; not from PyPI",
        )
        return
    head = (machine.read(f"{folder}/../.git/HEAD") or "").strip()
    branch = head.removeprefix("ref: refs/heads/")
    if branch == MINDSPEED_BRANCH:
        yield ok(f"branch {branch} in {folder}")
    elif branch != head:
        yield fix(
            f"branch {branch} in {folder}",
            f"git checkout {MINDSPEED_BRANCH}; others need another megatron-core",
        )
    else:
        revision = f"commit {head[:12]}" if head else "no git checkout"
        yield note(f"{revision} in {folder}", f"make sure that it is of branch {MINDSPEED_BRANCH}")


def check_start_up(request: Request, machine: Machine) -> Iterable[Finding]:
    """Check the start of a worker: device, libraries, patches, then megatron-core."""
    try:
        yield ok(str(machine.probe("start_up", kind=request.kind)))
    except ProbeError as error:
        yield fix(str(error), _start_up_remedy(str(error)))


_REMEDIES = {
    "MegatronAdaptor": f"this MindSpeed is newer than {MINDSPEED_BRANCH}; check out that branch",
    "ProcessGroupCollection": f"pip install 'megatron-core{PACKAGES['megatron-core'].ascend}'; this one is too old",
    "megatron.training": f"this branch of MindSpeed needs Megatron-LM's sources; check out {MINDSPEED_BRANCH}",
    "triton": "pip uninstall triton, then pip install triton-ascend",
    "einops": "pip install einops",
    "scipy": "pip install scipy",
}


def _start_up_remedy(reason: str) -> str:
    for word, remedy in _REMEDIES.items():
        if word in reason:
            return remedy
    return "fix the problems of the libraries above first; every worker starts this way"

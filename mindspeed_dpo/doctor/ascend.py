"""CANN, driver, torch_npu and MindSpeed. Written from public facts; none of it has been seen on an NPU."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mindspeed_dpo.doctor.findings import Finding, fix, note, ok
from mindspeed_dpo.doctor.machine import Machine, ProbeFailed
from mindspeed_dpo.doctor.request import Request
from mindspeed_dpo.doctor.versions import CANN, MINDSPEED_BRANCH, PACKAGES

SET_ENV = "/usr/local/Ascend/ascend-toolkit/set_env.sh"
_HOMES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
# CANN's releases keep their version in differently named files.
_VERSION_FILES = ("version.cfg", "version.info", "*/ascend_toolkit_install.info", "compiler/version.info")
_VERSION = re.compile(
    r"^\s*(?:version|\w*running_version)\s*=\s*\[?(?:[\d.]+:)?([^\s:\]]+)", re.IGNORECASE | re.MULTILINE
)


def check_toolkit(_: Request, machine: Machine) -> Iterable[Finding]:
    """Whether CANN's environment is there, and its version."""
    home = next((machine.env[name] for name in _HOMES if machine.env.get(name)), None)
    if home is None:
        there = machine.find(SET_ENV)
        remedy = (
            f"source {SET_ENV}" if there else f"install CANN {CANN} (toolkit and kernels), then source its set_env.sh"
        )
        yield fix(f"none of {', '.join(_HOMES)} is set", remedy, "CANN environment")
        return
    if not machine.find(home):
        yield fix(f"{home} does not exist", "source the set_env.sh of the CANN that is installed", "CANN environment")
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
            return note(f"{match[1]} ({path})", f"the versions of this project belong to CANN {CANN}", name)
    return note(f"no version file in {home}", f"see yourself that it is CANN {CANN}", name)


def check_driver(_: Request, machine: Machine) -> Iterable[Finding]:
    """Whether npu-smi sees the devices."""
    if machine.program("npu-smi") is None:
        yield fix(
            "npu-smi is not on PATH",
            "install the driver; in a container, mount the host's driver folder and npu-smi (docs/ascend.md)",
        )
        return
    ran = machine.run(["npu-smi", "info"])
    if ran.code != 0:
        yield fix(f"npu-smi info: {ran.reason}", "see the driver's log (dmesg), and that this user may use the devices")
        return
    match = re.search(r"Version:\s*(\S+)", ran.out)
    yield ok(f"npu-smi answers, version {match[1]}" if match else "npu-smi answers")


def check_device_files(_: Request, machine: Machine) -> Iterable[Finding]:
    """Whether this user may open the devices."""
    files = machine.find("/dev/davinci[0-9]*")
    locked = [path for path in files if not machine.may_use(path)]
    if not files:
        yield fix("there is no /dev/davinci*", "install the driver; in a container, pass the devices in with --device")
    elif locked:
        yield fix(
            f"{', '.join(locked)} cannot be opened by this user",
            "join the group that owns them (ls -l /dev/davinci*), or ask who runs the machine",
        )
    else:
        yield ok(f"{len(files)} devices")


def check_torch_npu(_: Request, machine: Machine) -> Iterable[Finding]:
    """Whether torch_npu loads, beside the torch it was made for."""
    try:
        found = machine.probe("loads", module="torch_npu")
    except ProbeFailed as error:
        yield fix(f"cannot be imported: {error}", _torch_npu_remedy(str(error), machine))
        return
    torch = machine.version("torch") or "unknown"
    if str(found).split(".post")[0] == torch.split("+")[0]:
        yield ok(f"{found} loads beside torch {torch}")
    else:
        yield fix(
            f"{found} beside torch {torch}",
            f"install the pair that belongs together: torch{PACKAGES['torch'].ascend} and "
            f"torch_npu{PACKAGES['torch_npu'].ascend}",
        )


def _torch_npu_remedy(reason: str, machine: Machine) -> str:
    if machine.version("torch_npu") is None:
        return f"pip install 'torch_npu{PACKAGES['torch_npu'].ascend}'"
    if re.search(r"\.so[.\d]*: cannot open shared object", reason) or "backend extension" in reason:
        return (
            f"CANN's libraries are not found: source {SET_ENV}; TORCH_DEVICE_BACKEND_AUTOLOAD=0 lets torch load "
            "without the device meanwhile"
        )
    return f"install torch{PACKAGES['torch'].ascend} and torch_npu{PACKAGES['torch_npu'].ascend} together"


def check_mindspeed(_: Request, machine: Machine) -> Iterable[Finding]:
    """Which MindSpeed there is."""
    folder = machine.package_folder("mindspeed")
    if folder is None:
        yield fix(
            "is not installed",
            f"check the branch {MINDSPEED_BRANCH} out and pip install --no-deps -e MindSpeed; not from PyPI",
        )
        return
    head = (machine.read(f"{folder}/../.git/HEAD") or "").strip()
    branch = head.removeprefix("ref: refs/heads/")
    if branch == MINDSPEED_BRANCH:
        yield ok(f"branch {branch} in {folder}")
    elif branch != head:
        yield fix(f"branch {branch} in {folder}", f"git checkout {MINDSPEED_BRANCH}: others need another megatron-core")
    else:
        what = f"commit {head[:12]}" if head else "no git checkout"
        yield note(f"{what} in {folder}", f"see yourself that it is of branch {MINDSPEED_BRANCH}")


def check_start_up(request: Request, machine: Machine) -> Iterable[Finding]:
    """The start of a worker: device, libraries, patches, megatron-core, in the order that works."""
    try:
        yield ok(str(machine.probe("start_up", kind=request.kind)))
    except ProbeFailed as error:
        yield fix(str(error), _start_up_remedy(str(error)))


_REMEDIES = {
    "MegatronAdaptor": f"this MindSpeed is newer than {MINDSPEED_BRANCH}; check that branch out",
    "ProcessGroupCollection": f"pip install 'megatron-core{PACKAGES['megatron-core'].ascend}': this one is too old",
    "megatron.training": f"this branch of MindSpeed needs Megatron-LM's sources; check {MINDSPEED_BRANCH} out",
    "triton": "pip uninstall triton, then pip install triton-ascend",
    "einops": "pip install einops",
    "scipy": "pip install scipy",
}


def _start_up_remedy(reason: str) -> str:
    for word, remedy in _REMEDIES.items():
        if word in reason:
            return remedy
    return "see the lines of the libraries above; each worker begins like this"

"""What the doctor says on a machine with NPUs, which is only pretended: well, and with one thing wrong at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from mindspeed_dpo.doctor.__main__ import main
from mindspeed_dpo.doctor.checks import examine
from mindspeed_dpo.doctor.findings import Finding
from mindspeed_dpo.doctor.processes import Ran
from mindspeed_dpo.doctor.request import Request, find_kind
from tests.unit.doctor.fake_machine import DEVICES, GIB, HERE, HOME, PROBES, SAME, Pretended, nodes, one

WELL = Pretended()


def told(machine: Pretended, **asked: object) -> list[Finding]:
    request = Request("npu", **asked)  # type: ignore[arg-type]
    return [finding for _, findings in examine(request, machine) for finding in findings]


def test_where_all_is_well_nothing_is_to_do() -> None:
    found = told(WELL, reads=("/data",), writes=("/out",))
    assert {finding.name for finding in found if finding.verdict == "not here"} == {"configuration"}
    assert [finding for finding in found if finding.verdict in ("fix", "note")] == []
    assert all(finding.found and not finding.remedy for finding in found)


Change = Callable[[Pretended], Pretended]
WRONG: dict[str, tuple[Change, str, str, str]] = {
    "old torch": (
        lambda m: replace(m, versions={**m.versions, "torch": "2.13.0+cpu"}),
        "torch",
        "2.13.0",
        "torch==2.7.1",
    ),
    "new numpy": (lambda m: replace(m, versions={**m.versions, "numpy": "2.4.6"}), "numpy", "<2", "numpy>=1.26,<2"),
    "other Python": (lambda m: replace(m, python_version="3.9.1"), "Python", "3.9.1", ">=3.10"),
    "new megatron": (
        lambda m: replace(m, versions={**m.versions, "megatron-core": "0.17.0"}),
        "megatron-core",
        "0.17.0",
        "<0.17",
    ),
    "no torch_npu": (lambda m: m.without("versions", "torch_npu"), "torch_npu", "is not installed", "2.7.1.post4"),
    "CANN not sourced": (
        lambda m: replace(m, variables={}, files={**m.files, "/usr/local/Ascend/ascend-toolkit/set_env.sh": ""}),
        "CANN environment",
        "ASCEND_HOME_PATH",
        "source /usr/local/Ascend/ascend-toolkit/set_env.sh",
    ),
    "no CANN": (lambda m: replace(m, variables={}), "CANN environment", "is set", "install CANN 9.0.0"),
    "stale CANN": (
        lambda m: m.with_variables(ASCEND_HOME_PATH="/gone"),
        "CANN environment",
        "does not exist",
        "source",
    ),
    "no driver": (lambda m: replace(m, programs={}), "driver", "not on PATH", "container"),
    "driver fails": (
        lambda m: replace(m, programs={"npu-smi": Ran(255, err="dcmi init failed\n")}),
        "driver",
        "dcmi init failed",
        "dmesg",
    ),
    "driver hangs": (
        lambda m: replace(m, programs={"npu-smi": Ran(None, timeout_s=9)}),
        "driver",
        "no answer within 9 s",
        "dmesg",
    ),
    "no devices": (
        lambda m: m.without("files", "/dev/davinci0", "/dev/davinci1"),
        "device files",
        "no /dev/davinci*",
        "--device",
    ),
    "locked": (lambda m: replace(m, locked=("/dev/davinci1",)), "device files", "/dev/davinci1 cannot", "group"),
    "few files": (lambda m: replace(m, limit=256), "open files", "256", "ulimit -n 32768"),
    "blank in list": (
        lambda m: m.with_variables(ASCEND_RT_VISIBLE_DEVICES="0, 1"),
        "visible devices",
        "'0, 1'",
        "ascending",
    ),
    "descending": (
        lambda m: m.with_variables(ASCEND_RT_VISIBLE_DEVICES="1,0"),
        "visible devices",
        "'1,0'",
        "ascending",
    ),
    "allocator": (
        lambda m: m.with_variables(PYTORCH_NPU_ALLOC_CONF="expandable_segments:True,max_split_size_mb:128"),
        "allocator",
        "max_split_size_mb:128",
        "excludes max_split_size_mb",
    ),
    "timeout": (lambda m: m.with_variables(HCCL_CONNECT_TIMEOUT="60"), "HCCL timeout", "60", "120 to 7200"),
    "port taken": (lambda m: replace(m, taken=(60003,)), "HCCL ports", "60003", "HCCL_IF_BASE_PORT"),
    "own port taken": (
        lambda m: replace(m, taken=(24710,)).with_variables(HCCL_IF_BASE_PORT="24703"),
        "HCCL ports",
        "24710",
        "free range",
    ),
    "port too high": (lambda m: m.with_variables(HCCL_IF_BASE_PORT="65510"), "HCCL ports", "65510", "1024 to 65504"),
    "port no number": (lambda m: m.with_variables(HCCL_IF_BASE_PORT="many"), "HCCL ports", "many", "one number"),
    "ranges meet": (
        lambda m: m.with_variables(HCCL_HOST_SOCKET_PORT_RANGE="60000-60050", HCCL_NPU_SOCKET_PORT_RANGE="60050-60100"),
        "HCCL ports",
        "share port 60050",
        "apart",
    ),
    "no such interface": (lambda m: m.with_variables(HCCL_SOCKET_IFNAME="ib"), "HCCL_SOCKET_IFNAME", "ib", "share"),
    "not exactly": (lambda m: m.with_variables(HCCL_SOCKET_IFNAME="=eth"), "HCCL_SOCKET_IFNAME", "=eth", "share"),
    "gloo": (lambda m: m.with_variables(GLOO_SOCKET_IFNAME="eth1"), "GLOO_SOCKET_IFNAME", "eth1 does not", "eth0"),
    "not own": (lambda m: m.with_variables(HCCL_IF_IP="10.0.0.7"), "HCCL_IF_IP", "10.0.0.7", "its own"),
    "libraries not found": (
        lambda m: m.with_probe("loads", "ImportError: libhccl.so: cannot open shared object file: No such file"),
        "torch_npu",
        "libhccl.so",
        "set_env.sh",
    ),
    "unequal pair": (
        lambda m: replace(m, probes={**m.probes, "loads": "2.6.0"}),
        "torch_npu",
        "2.6.0 beside torch 2.7.1",
        "pair",
    ),
    "no MindSpeed": (lambda m: replace(m, folders={}), "MindSpeed", "is not installed", "--no-deps"),
    "wrong branch": (
        lambda m: replace(m, files={**m.files, "/src/MindSpeed/mindspeed/../.git/HEAD": "ref: refs/heads/master\n"}),
        "MindSpeed",
        "branch master",
        "git checkout core_r0.16.0",
    ),
    "newer MindSpeed": (
        lambda m: m.with_probe("start_up", "ModuleNotFoundError: No module named 'MegatronAdaptor'"),
        "start of a worker",
        "MegatronAdaptor",
        "core_r0.16.0",
    ),
    "no device visible": (
        lambda m: m.with_probe("torch_devices", {"torch": "2.7.1", "kind": "npu", "devices": []}),
        "memory",
        "torch sees no npu device",
        "npu-smi info",
    ),
    "HCCL": (lambda m: m.with_probe("all_reduce", "no answer within 120 s"), "all-reduce", "120 s", "host's network"),
    "wrong operator": (
        lambda m: m.with_probe("operators", [{"name": "rotate", "dtype": "float32", "error": 0.5, "allowed": 0.001}]),
        "rotate",
        "5.0e-01",
        "do not train",
    ),
    "not finite": (
        lambda m: m.with_probe("operators", [{"name": "rotate", "dtype": "float32", "error": None, "allowed": 0.001}]),
        "rotate",
        "not finite",
        "do not train",
    ),
    "node without NPUs": (
        lambda m: m.with_probe(
            "cluster", {**PROBES["cluster"], "nodes": nodes({}, {"resources": {"NPU": 0, "CPU": 4}})}
        ),
        "node 10.0.0.2",
        "4 CPU: no NPU",
        "--resources='{\"NPU\": 8}'",
    ),
    "node that is silent": (
        lambda m: m.with_probe("cluster", {**PROBES["cluster"], "nodes": nodes({}, {"error": "no answer in time"})}),
        "node 10.0.0.2",
        "no answer in time",
        "Ray's log",
    ),
    "no cluster there": (
        lambda m: m.with_probe("cluster", {**PROBES["cluster"], "nodes": None, "failure": "nothing answers at h:1"}),
        "nodes",
        "nothing answers at h:1",
        "ray status",
    ),
    "path missing on one node": (
        lambda m: m.with_probe("cluster", {**PROBES["cluster"], "nodes": nodes({}, {"unreadable": ["/data"]})}),
        "/data",
        "cannot be read on 10.0.0.2",
        "share the folder",
    ),
    "output on one node": (
        lambda m: m.with_probe("cluster", {**PROBES["cluster"], "here": {**HERE, "unwritable": ["/out"]}}),
        "/out",
        "cannot be written on this node",
        "share the folder",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_one_thing_that_is_wrong_is_named_with_its_remedy(case: str) -> None:
    change, name, found, remedy = WRONG[case]
    lines = told(change(WELL), reads=("/data",), writes=("/out",))
    wrong = [line for line in lines if line.verdict == "fix" and line.name == name]
    assert len(wrong) == 1, [line for line in lines if line.verdict == "fix"]
    assert found in wrong[0].found and remedy in wrong[0].remedy
    others = [line for line in lines if line.verdict == "fix" and line is not wrong[0]]
    assert [line.name for line in others] == (["torch_npu"] if case == "old torch" else []), others


@pytest.mark.parametrize(
    ("machine", "name", "remedy"),
    [
        (replace(WELL, python_version="3.11.4"), "Python", "not verified"),
        (replace(WELL, limit=4096), "open files", "32768"),
        (WELL.with_variables(ASCEND_LAUNCH_BLOCKING="1"), "launches", "unset"),
        (WELL.with_variables(NNODES="2"), "HCCL_SOCKET_IFNAME", "the nodes share"),
        (replace(WELL, files={**WELL.files, f"{HOME}/version.cfg": "version=8.2.RC1\n"}), "CANN version", "9.0.0"),
        (WELL.without("files", f"{HOME}/version.cfg"), "CANN version", "yourself"),
        (WELL.without("files", "/src/MindSpeed/mindspeed/../.git/HEAD"), "MindSpeed", "core_r0.16.0"),
        (
            WELL.with_probe(
                "torch_devices", {**PROBES["torch_devices"], "devices": [{**DEVICES[0], "free": GIB}, DEVICES[1]]}
            ),
            "device 0",
            "another process",
        ),
    ],
)
def test_what_only_should_be_known_stops_nothing(machine: Pretended, name: str, remedy: str) -> None:
    lines = told(machine)
    assert one(lines, name).verdict == "note" and remedy in one(lines, name).remedy
    assert [line for line in lines if line.verdict == "fix"] == []


@pytest.mark.parametrize(
    ("variables", "name", "found"),
    [
        ({"HCCL_HOST_SOCKET_PORT_RANGE": "auto"}, "HCCL ports", "auto"),
        ({"HCCL_IF_BASE_PORT": "24703"}, "HCCL ports", "24703 to 24718"),
        ({"HCCL_SOCKET_IFNAME": "en,eth"}, "HCCL_SOCKET_IFNAME", "enp1s0, eth0"),
        ({"HCCL_SOCKET_IFNAME": "=eth0"}, "HCCL_SOCKET_IFNAME", "eth0"),
        ({"HCCL_SOCKET_IFNAME": "^lo,e"}, "HCCL_SOCKET_IFNAME", "none of"),
        ({"HCCL_IF_IP": "10.0.0.1"}, "HCCL_IF_IP", "10.0.0.1"),
        ({"ASCEND_RT_VISIBLE_DEVICES": "0,2,11"}, "visible devices", "0,2,11"),
        ({"PYTORCH_NPU_ALLOC_CONF": "max_split_size_mb:128"}, "allocator", "128"),
    ],
)
def test_values_are_read_as_the_vendor_writes_them(variables: dict[str, str], name: str, found: str) -> None:
    assert found in one(told(WELL.with_variables(**variables)), name).found


def test_versions_that_differ_between_nodes_are_named() -> None:
    other = nodes({}, {"versions": {**SAME, "ray": "2.40.0"}})
    lines = told(WELL.with_probe("cluster", {**PROBES["cluster"], "nodes": other}))
    assert "ray 2.40.0 (here 2.60.0)" in [line for line in lines if line.name == "node 10.0.0.2"][1].found


@pytest.mark.parametrize("sign", ["files", "programs", "folders"])
def test_an_npu_shows_itself_by_any_sign(sign: str) -> None:
    bare = Pretended(files={}, programs={}, folders={}, probes={})
    shown = {"files": {"/dev/davinci0": ""}, "programs": {"npu-smi": Ran(0)}, "folders": {"torch_npu": "/x"}}[sign]
    assert find_kind("auto", replace(bare, **{sign: shown})) == "npu"


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_without_an_npu_the_kind_is_what_torch_finds(kind: str) -> None:
    bare = Pretended(files={}, programs={}, folders={})
    assert find_kind("auto", bare.with_probe("torch_devices", {"kind": kind})) == kind
    assert find_kind("auto", bare.with_probe("torch_devices", "it is broken")) == "cpu"
    assert find_kind("npu", bare) == "npu"


def test_one_cuda_device_adds_up_with_nobody() -> None:
    machine = WELL.with_probe("torch_devices", {"torch": "2.13.0", "kind": "cuda", "devices": DEVICES[:1]})
    lines = [finding for _, found in examine(Request("cuda"), machine) for finding in found]
    assert one(lines, "all-reduce").verdict == "not here" and "two devices" in one(lines, "all-reduce").found
    assert {line.found for line in lines if line.name in ("CANN", "driver", "HCCL ports")} == {"no NPU"}


@pytest.mark.parametrize(
    ("machine", "code"), [(WELL, 0), (replace(WELL, limit=4096), 0), (replace(WELL, folders={}), 1)]
)
def test_the_exit_code_and_the_json_say_whether_something_is_to_fix(
    machine: Pretended, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--device", "npu", "--json"], machine) == code
    told_json = json.loads(capsys.readouterr().out)
    assert (told_json["device"], told_json["to_fix"]) == ("npu", code)
    assert {"group", "verdict", "found", "remedy", "name"} == set(told_json["findings"][0])
    assert main(["--device", "npu"], machine) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "checked for npu" and lines[-1].startswith("1 thing to fix" if code else "nothing to fix")

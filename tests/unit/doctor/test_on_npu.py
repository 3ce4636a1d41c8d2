"""The checks on a fake machine with NPUs: complete, and with one problem at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from mindspeed_dpo.doctor.__main__ import main
from mindspeed_dpo.doctor.checks import run_checks
from mindspeed_dpo.doctor.findings import Finding
from mindspeed_dpo.doctor.probe_processes import CompletedCommand
from mindspeed_dpo.doctor.request import Request, resolve_kind
from tests.unit.doctor.fake_machine import (
    DEVICES,
    GIB,
    HOME,
    NODE_VERSIONS,
    PROBES,
    THIS_NODE,
    FakeMachine,
    find_one,
    nodes,
)

COMPLETE = FakeMachine()


def check(machine: FakeMachine, **paths: object) -> list[Finding]:
    request = Request("npu", **paths)  # type: ignore[arg-type]
    return [finding for _, findings in run_checks(request, machine) for finding in findings]


def test_a_complete_machine_has_no_problem_and_no_note() -> None:
    findings = check(COMPLETE, reads=("/data",), writes=("/out",))
    assert {finding.name for finding in findings if finding.verdict == "not here"} == {"configuration", "vLLM"}
    assert [finding for finding in findings if finding.verdict in ("fix", "note")] == []
    assert all(finding.detail and not finding.remedy for finding in findings)


Change = Callable[[FakeMachine], FakeMachine]
PROBLEMS: dict[str, tuple[Change, str, str, str]] = {
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
        lambda m: replace(m, programs={"npu-smi": CompletedCommand(255, stderr="dcmi init failed\n")}),
        "driver",
        "dcmi init failed",
        "dmesg",
    ),
    "driver hangs": (
        lambda m: replace(m, programs={"npu-smi": CompletedCommand(None, timeout_s=9)}),
        "driver",
        "no result within 9 s",
        "dmesg",
    ),
    "no devices": (
        lambda m: m.without("files", "/dev/davinci0", "/dev/davinci1"),
        "device files",
        "no /dev/davinci*",
        "--device",
    ),
    "locked": (lambda m: replace(m, locked=("/dev/davinci1",)), "device files", "/dev/davinci1 cannot", "group"),
    "few files": (lambda m: replace(m, open_files=256), "open files", "256", "ulimit -n 32768"),
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
    "port taken": (lambda m: replace(m, used_ports=(60003,)), "HCCL ports", "60003", "HCCL_IF_BASE_PORT"),
    "own port taken": (
        lambda m: replace(m, used_ports=(24710,)).with_variables(HCCL_IF_BASE_PORT="24703"),
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
        "disjoint",
    ),
    "no such interface": (lambda m: m.with_variables(HCCL_SOCKET_IFNAME="ib"), "HCCL_SOCKET_IFNAME", "ib", "connects"),
    "not exactly": (lambda m: m.with_variables(HCCL_SOCKET_IFNAME="=eth"), "HCCL_SOCKET_IFNAME", "=eth", "connects"),
    "gloo": (lambda m: m.with_variables(GLOO_SOCKET_IFNAME="eth1"), "GLOO_SOCKET_IFNAME", "eth1 does not", "eth0"),
    "not own": (lambda m: m.with_variables(HCCL_IF_IP="10.0.0.7"), "HCCL_IF_IP", "10.0.0.7", "own address"),
    "libraries are missing": (
        lambda m: m.with_probe(
            "library_version", "ImportError: libhccl.so: cannot open shared object file: No such file"
        ),
        "torch_npu",
        "libhccl.so",
        "set_env.sh",
    ),
    "unequal pair": (
        lambda m: replace(m, probes={**m.probes, "library_version": "2.6.0"}),
        "torch_npu",
        "2.6.0 with torch 2.7.1",
        "matching versions",
    ),
    "no MindSpeed": (lambda m: replace(m, folders={}), "MindSpeed", "is not installed", "--no-deps"),
    "unsupported branch": (
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
    "HCCL": (lambda m: m.with_probe("all_reduce", "no result within 120 s"), "all-reduce", "120 s", "host's network"),
    "incorrect operator": (
        lambda m: m.with_probe("operators", [{"name": "rotate", "dtype": "float32", "error": 0.5, "tolerance": 0.001}]),
        "rotate",
        "5.0e-01",
        "do not train",
    ),
    "not finite": (
        lambda m: m.with_probe(
            "operators", [{"name": "rotate", "dtype": "float32", "error": None, "tolerance": 0.001}]
        ),
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
        lambda m: m.with_probe("cluster", {**PROBES["cluster"], "nodes": nodes({}, {"error": "no response in time"})}),
        "node 10.0.0.2",
        "no response in time",
        "Ray's log",
    ),
    "no cluster there": (
        lambda m: m.with_probe("cluster", {**PROBES["cluster"], "nodes": None, "failure": "nothing responds at h:1"}),
        "nodes",
        "nothing responds at h:1",
        "ray status",
    ),
    "path missing on one node": (
        lambda m: m.with_probe("cluster", {**PROBES["cluster"], "nodes": nodes({}, {"unreadable": ["/data"]})}),
        "/data",
        "cannot be read on 10.0.0.2",
        "share the folder",
    ),
    "output on one node": (
        lambda m: m.with_probe("cluster", {**PROBES["cluster"], "this_node": {**THIS_NODE, "unwritable": ["/out"]}}),
        "/out",
        "cannot be written on this node",
        "share the folder",
    ),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_a_single_problem_is_reported_with_its_remedy(case: str) -> None:
    change, name, detail, remedy = PROBLEMS[case]
    problems = [
        finding for finding in check(change(COMPLETE), reads=("/data",), writes=("/out",)) if finding.verdict == "fix"
    ]
    problem = find_one([finding for finding in problems if finding.name == name], name)
    assert detail in problem.detail and remedy in problem.remedy
    others = [finding.name for finding in problems if finding is not problem]
    assert others == (["torch_npu"] if case == "old torch" else []), problems


@pytest.mark.parametrize(
    ("machine", "name", "remedy"),
    [
        (replace(COMPLETE, python_version="3.11.4"), "Python", "not verified"),
        (replace(COMPLETE, open_files=4096), "open files", "32768"),
        (COMPLETE.with_variables(ASCEND_LAUNCH_BLOCKING="1"), "launches", "unset"),
        (COMPLETE.with_variables(NNODES="2"), "HCCL_SOCKET_IFNAME", "connects the nodes"),
        (
            replace(COMPLETE, files={**COMPLETE.files, f"{HOME}/version.cfg": "version=8.2.RC1\n"}),
            "CANN version",
            "9.0.0",
        ),
        (COMPLETE.without("files", f"{HOME}/version.cfg"), "CANN version", "make sure"),
        (COMPLETE.without("files", "/src/MindSpeed/mindspeed/../.git/HEAD"), "MindSpeed", "core_r0.16.0"),
        (
            COMPLETE.with_probe(
                "torch_devices", {**PROBES["torch_devices"], "devices": [{**DEVICES[0], "free": GIB}, DEVICES[1]]}
            ),
            "device 0",
            "another process",
        ),
    ],
)
def test_a_note_is_no_problem(machine: FakeMachine, name: str, remedy: str) -> None:
    findings = check(machine)
    finding = find_one(findings, name)
    assert finding.verdict == "note" and remedy in finding.remedy
    assert [finding for finding in findings if finding.verdict == "fix"] == []


@pytest.mark.parametrize(
    ("variables", "name", "detail"),
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
def test_values_are_parsed_in_the_syntax_of_the_vendor(variables: dict[str, str], name: str, detail: str) -> None:
    assert detail in find_one(check(COMPLETE.with_variables(**variables)), name).detail


def test_versions_that_differ_between_nodes_are_reported() -> None:
    other = nodes({}, {"versions": {**NODE_VERSIONS, "ray": "2.40.0"}})
    findings = check(COMPLETE.with_probe("cluster", {**PROBES["cluster"], "nodes": other}))
    assert "ray 2.40.0 (here 2.60.0)" in [one for one in findings if one.name == "node 10.0.0.2"][1].detail


@pytest.mark.parametrize("sign", ["files", "programs", "folders"])
def test_an_npu_is_detected_by_any_of_its_signs(sign: str) -> None:
    bare = FakeMachine(files={}, programs={}, folders={}, probes={})
    present = {
        "files": {"/dev/davinci0": ""},
        "programs": {"npu-smi": CompletedCommand(0)},
        "folders": {"torch_npu": "/x"},
    }[sign]
    assert resolve_kind("auto", replace(bare, **{sign: present})) == "npu"


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_without_an_npu_torch_determines_the_device(kind: str) -> None:
    bare = FakeMachine(files={}, programs={}, folders={})
    assert resolve_kind("auto", bare.with_probe("torch_devices", {"kind": kind})) == kind
    assert resolve_kind("auto", bare.with_probe("torch_devices", "it is broken")) == "cpu"
    assert resolve_kind("npu", bare) == "npu"


def test_the_all_reduce_is_not_checked_on_one_cuda_device() -> None:
    machine = COMPLETE.with_probe("torch_devices", {"torch": "2.13.0", "kind": "cuda", "devices": DEVICES[:1]})
    findings = [finding for _, group in run_checks(Request("cuda"), machine) for finding in group]
    all_reduce = find_one(findings, "all-reduce")
    assert all_reduce.verdict == "not here" and "two devices" in all_reduce.detail
    assert {finding.detail for finding in findings if finding.name in ("CANN", "driver", "HCCL ports")} == {"no NPU"}


@pytest.mark.parametrize(
    ("machine", "code"), [(COMPLETE, 0), (replace(COMPLETE, open_files=4096), 0), (replace(COMPLETE, folders={}), 1)]
)
def test_exit_code_json_and_summary_report_problems(
    machine: FakeMachine, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--device", "npu", "--json"], machine) == code
    report = json.loads(capsys.readouterr().out)
    assert (report["device"], report["to_fix"]) == ("npu", code)
    assert {"group", "verdict", "found", "remedy", "name"} == set(report["findings"][0])
    assert main(["--device", "npu"], machine) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "device: npu" and lines[-1].startswith("1 problem to fix" if code else "nothing to fix")

"""Start-up, operators and guards of `device: npu` over the reference torch_npu and MindSpeed, each in a process."""

from __future__ import annotations

import pytest

from mindspeed_dpo.device.npu import BASE_SETTINGS
from tests.support.closeness import ROUNDING
from tests.support.npu_processes import SETTINGS
from tests.support.processes import pool
from tests.unit.device import npu_jobs

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]


def test_a_process_starts_in_the_order_that_works() -> None:
    report = pool(1, device="npu").run(npu_jobs.start_up)[0]
    assert report["torch_npu_came_first"] and report["megatron_came_later"]
    assert report["repatched"] == [{**BASE_SETTINGS, **SETTINGS}]
    assert len(report["argv"]) == 1 and report["devices"] == [0]
    assert report["root handlers"] == 0 and report["root level"] == 30 and not report["once filter"]
    assert "cpu:gloo" in report["backend"] and "npu:hccl" in report["backend"]


def test_collectives_are_guarded_against_losing_values() -> None:
    report = pool(2, device="npu").run(npu_jobs.collectives)[1]
    assert report["keyword"] == [2, 2, 2]
    for name in ("all_reduce", "broadcast"):
        assert f"torch.distributed.{name} of float64" in report[name] and "use float32" in report[name]
    # Without the guard MindSpeed's own replacement takes float64, says nothing and leaves the tensor unreduced.
    assert report["unguarded float64"] == [1, 1, 1] and report["unguarded keyword"] == "IndexError"


def test_the_reference_refuses_what_hccl_and_mindspeed_would_so_that_runs_over_it_show_we_do_without() -> None:
    for report in pool(2, device="npu").run(npu_jobs.library_side_effects):
        assert report.pop("copied config") == "none"
        assert report == {
            "gather": "RuntimeError",
            "mean": "RuntimeError",
            "pickled config": "PicklingError",
            "written through a view": "RuntimeError",
        }


def test_each_operator_and_its_gradient_is_its_definition() -> None:
    for name, difference in pool(1, device="npu").run(npu_jobs.operators)[0].items():
        assert difference < ROUNDING, name


def test_what_the_device_would_refuse_is_refused_with_a_sentence() -> None:
    report = pool(1, device="npu").run(npu_jobs.refusals)[0]
    assert report.pop("uint8 mask") == "taken"
    for name in ("float64", "two dtypes", "width", "heads", "segments", "empty first", "more queries", "lengths"):
        assert report[name].startswith("device=npu: npu_") and " takes " in report[name] and "; " in report[name], (
            report[name]
        )
    for name, sentence in report.items():
        assert sentence != "taken" and "Error(" not in sentence, (name, sentence)


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        (None, None),
        ("refuses", "it fails: Sq and Skv must be equal"),
        ("aligns left", "its result is off by"),
        ("incorrect gradient", "its gradient of key is off by"),
    ],
)
def test_the_probe_finds_attention_that_is_incorrect_with_prefixes(fault: str | None, verdict: str | None) -> None:
    actual = pool(1, device="npu").run(npu_jobs.probed, fault)[0]
    assert actual == verdict if verdict is None else str(actual).startswith(verdict)

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
    told = pool(1, device="npu").run(npu_jobs.start_up)[0]
    assert told["torch_npu_came_first"] and told["megatron_came_later"]
    assert told["repatched"] == [{**BASE_SETTINGS, **SETTINGS}]
    assert len(told["argv"]) == 1 and told["devices"] == [0]
    assert told["root handlers"] == 0 and told["root level"] == 30 and not told["once filter"]
    assert "cpu:gloo" in told["backend"] and "npu:hccl" in told["backend"]


def test_collectives_are_kept_from_losing_what_they_carry() -> None:
    told = pool(2, device="npu").run(npu_jobs.collectives)[1]
    assert told["keyword"] == [2, 2, 2]
    for name in ("all_reduce", "broadcast"):
        assert f"torch.distributed.{name} of float64" in told[name] and "use float32" in told[name]
    # Without the guard MindSpeed's own replacement takes float64, says nothing and leaves the tensor unreduced.
    assert told["unguarded float64"] == [1, 1, 1] and told["unguarded keyword"] == "IndexError"


def test_the_reference_refuses_what_hccl_and_mindspeed_would_so_that_runs_over_it_show_we_do_without() -> None:
    for told in pool(2, device="npu").run(npu_jobs.library_habits):
        assert told.pop("copied config") == "none"
        assert told == {
            "gather": "RuntimeError",
            "mean": "RuntimeError",
            "pickled config": "PicklingError",
            "written through a view": "RuntimeError",
        }


def test_each_operator_and_its_gradient_is_its_definition() -> None:
    for name, difference in pool(1, device="npu").run(npu_jobs.operators)[0].items():
        assert difference < ROUNDING, name


def test_what_the_device_would_refuse_is_refused_with_a_sentence() -> None:
    told = pool(1, device="npu").run(npu_jobs.refusals)[0]
    assert told.pop("uint8 mask") == "taken"
    for name in ("float64", "two dtypes", "width", "heads", "segments", "empty first", "more queries", "lengths"):
        assert told[name].startswith("device=npu: npu_") and " takes " in told[name] and "; " in told[name], told[name]
    for name, sentence in told.items():
        assert sentence != "taken" and "Error(" not in sentence, (name, sentence)


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        (None, None),
        ("refuses", "it fails: Sq and Skv must be equal"),
        ("aligns left", "its result is off by"),
        ("wrong gradient", "its gradient of key is off by"),
    ],
)
def test_the_probe_finds_attention_that_is_wrong_with_prefixes(fault: str | None, verdict: str | None) -> None:
    found = pool(1, device="npu").run(npu_jobs.probed, fault)[0]
    assert found == verdict if verdict is None else str(found).startswith(verdict)

"""The doctor's check of vLLM, over a stand-in of it."""

from __future__ import annotations

from pathlib import Path

from mindspeed_dpo.doctor.checks import check_configuration
from mindspeed_dpo.doctor.findings import FIX, NOT_CHECKED, OK, Finding
from mindspeed_dpo.doctor.machine import Machine
from mindspeed_dpo.doctor.request import Request
from mindspeed_dpo.doctor.rollout_engine import check_vllm
from tests.support.judge_models import save_judge_folder
from tests.support.vllm_python import stand_in_python
from tests.unit.workers.rollouts import online_run


def found(folder: Path, engine: str) -> Finding:
    vllm = f"actor_rollout_ref.actor_rollout.vllm={{python: {engine}}}"
    run = online_run(folder, (1, 1, 1), 1, 1, [vllm], rollout_engine="vllm")
    (finding,) = check_vllm(Request("cpu", name="mine", run=run), Machine(10))
    return finding


def test_vllm_is_checked_where_a_configuration_lets_it_generate(tmp_path: Path) -> None:
    python = stand_in_python(tmp_path)
    finding = found(tmp_path, str(python))
    assert finding.verdict == OK and finding.detail.startswith("0.0.stand-in with torch ")
    refused = found(tmp_path, f"{python}, tensor_size: 3")
    assert refused.verdict == FIX and "unexpected keyword argument 'tensor_size'" in refused.detail
    absent = found(tmp_path, "/no/python")
    assert absent.verdict == FIX and "cannot be run" in absent.detail


def test_without_such_a_configuration_there_is_nothing_to_check() -> None:
    request = Request("cpu")
    assert [one.verdict for check in (check_configuration, check_vllm) for one in check(request, Machine(10))] == [
        NOT_CHECKED,
        NOT_CHECKED,
    ]


def test_the_engine_of_a_judge_model_is_checked_beside_that_of_the_rollout(tmp_path: Path) -> None:
    python, folder = stand_in_python(tmp_path), save_judge_folder(tmp_path / "judge")
    more = [f"actor_rollout_ref.actor_rollout.vllm={{python: {python}}}", f"reward.judge_vllm={{python: {python}}}"]
    keys = {"reward_functions": None, "judge_model": folder, "judge_max_new_tokens": 50}
    run = online_run(tmp_path, (1, 1, 1), 1, 0, more, rollout_engine="vllm", **keys)
    rollout, judge = check_vllm(Request("cpu", name="mine", run=run), Machine(10))
    assert rollout.verdict == judge.verdict == OK and judge.detail == f"{rollout.detail}, which judges"
    builtin = online_run(tmp_path, (1, 1, 1), 1, 0, more, **{**keys, "judge_max_new_tokens": 5000})
    (refused,) = check_vllm(Request("cpu", name="mine", run=builtin), Machine(10))
    assert refused.verdict == FIX and "leaves no tokens for a question to judge_model" in refused.detail

"""The check of vLLM where a configuration lets it generate or judge."""

from __future__ import annotations

from collections.abc import Iterable

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.doctor.findings import Finding, fix, not_checked, ok
from mindspeed_dpo.doctor.machine import Machine
from mindspeed_dpo.doctor.request import Request


def check_vllm(request: Request, _: Machine) -> Iterable[Finding]:
    """Check that the interpreters of vLLM have it, and that it has the models and knows the arguments."""
    run = request.run
    rollout, reward = (run.rollout, run.reward) if run is not None else (None, None)
    generates = rollout is not None and rollout.rollout.uses_vllm
    judges = reward is not None and reward.reward_source == "judge_model"
    if not generates and not judges:
        yield not_checked("no configuration with rollout_engine=vllm or judge_model")
        return
    assert run is not None
    if generates:
        yield _engine(run, is_judge=False)
    if judges:
        yield _engine(run, is_judge=True)


def _engine(run: RunConfig, *, is_judge: bool) -> Finding:
    """Check one engine."""
    # Deferred: without such a configuration the checks must also run where these libraries are missing.
    from mindspeed_dpo.workers.rewards.judge_model_setup import check_judge_model
    from mindspeed_dpo.workers.setup import vllm_check

    assert run.rollout is not None and run.reward is not None
    try:
        found = check_judge_model(run.reward) if is_judge else vllm_check.check_vllm(run.rollout)
    except (ValueError, OSError) as error:
        return fix(str(error), "docs/vllm.md says how its environment is made")
    what = ", which judges" if is_judge else ""
    return ok(f"{found.vllm} with torch {found.torch} in {found.python}, for {found.platform}{what}")

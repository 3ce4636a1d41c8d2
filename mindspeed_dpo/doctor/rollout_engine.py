"""The check of vLLM where a configuration lets it generate."""

from __future__ import annotations

from collections.abc import Iterable

from mindspeed_dpo.doctor.findings import Finding, fix, not_checked, ok
from mindspeed_dpo.doctor.machine import Machine
from mindspeed_dpo.doctor.request import Request


def check_vllm(request: Request, _: Machine) -> Iterable[Finding]:
    """Check that the interpreter of `vllm.python` has vLLM, and that it has the model and knows the arguments."""
    role = request.run.rollout if request.run is not None else None
    if role is None or not role.rollout.uses_vllm:
        yield not_checked("no configuration with rollout_engine=vllm")
        return
    # Deferred: without such a configuration the checks must also run where these libraries are missing.
    from mindspeed_dpo.workers.setup import vllm_check

    try:
        found = vllm_check.check_vllm(role)
    except (ValueError, OSError) as error:
        yield fix(str(error), "docs/vllm.md says how its environment is made")
    else:
        yield ok(f"{found.vllm} with torch {found.torch} in {found.python}, for {found.platform}")

"""TR-DPO: a reference that is updated every so many steps, in every layout, also where a run is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindspeed_dpo.config.settings.reference_model import ReferenceConfig
from mindspeed_dpo.controller.role_groups import ActorGroup, ReferenceGroup
from mindspeed_dpo.workers.colocated_roles import ColocatedRoles
from tests.support.closeness import ROUNDING
from tests.support.processes import PoolGroup
from tests.support.runs import Layout, train
from tests.unit.workers.pairs import random_run

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

ROWS = np.array([3, 0, 4, 2])
KEYS: dict[str, Any] = {
    "reference": "live", "sync_ref_model": True, "ref_model_sync_steps": 2, "global_batch_size": 4, "lr": 1e-2,
    "lr_warmup_iters": 0,
}  # fmt: skip


def build_actor(folder: Path, layout: Layout, alpha: float) -> tuple[PoolGroup, ActorGroup, ReferenceGroup]:
    run = random_run(folder, layout, **KEYS, ref_model_mixup_alpha=alpha)
    group = PoolGroup(run, layout[0] * layout[1] * layout[2])
    group.build("actor")
    group.build("ref")
    return group, ActorGroup(group), ReferenceGroup(group, settings=run.actor.reference)


@pytest.mark.parametrize("layout", [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)], ids=str)
def test_the_reference_takes_up_the_policy(layout: Layout, tmp_path: Path) -> None:
    _, actor, reference = build_actor(tmp_path, layout, alpha=1.0)
    before = reference.log_probs(ROWS)
    for step in range(2):
        actor.update(step, ROWS, before)
        assert reference.sync_if_due(step + 1) is (step == 1)
        if step == 0:
            assert np.array_equal(reference.log_probs(ROWS), before)
    np.testing.assert_allclose(reference.log_probs(ROWS), actor.log_probs(ROWS), rtol=ROUNDING)
    assert not np.allclose(reference.log_probs(ROWS), before)
    # Without sync_ref_model nothing is updated.
    assert ReferenceGroup(PoolGroup(random_run(tmp_path), 1), settings=ReferenceConfig()).sync_if_due(512) is False


def weights(colocated: ColocatedRoles) -> dict[str, list[float]]:
    models = {"ref": colocated.roles["ref"].engine.model, "actor": colocated.roles["actor"].engine.model}
    return {name: next(iter(model.parameters())).flatten()[:50].tolist() for name, model in models.items()}


def test_a_mix_takes_its_share_of_both(tmp_path: Path) -> None:
    group, actor, reference = build_actor(tmp_path, (1, 1, 1), alpha=0.25)
    for step in range(2):
        actor.update(step, ROWS, reference.log_probs(ROWS))
    (before,) = group.inspect(weights)
    reference.sync_if_due(2)
    (after,) = group.inspect(weights)
    mixed = 0.75 * np.array(before["ref"]) + 0.25 * np.array(before["actor"])
    np.testing.assert_allclose(after["ref"], mixed, rtol=1e-6, atol=1e-9)
    assert after["actor"] == before["actor"] and before["actor"] != before["ref"]


@pytest.mark.parametrize("layout", [(1, 1, 1), (2, 2, 1)], ids=str)
def test_a_run_that_goes_on_has_the_reference_it_had(layout: Layout, tmp_path: Path) -> None:
    keys = {**KEYS, "save_interval": 3, "train_iters": 6, "split": "60,40,0", "eval_interval": 1, "eval_iters": 1}
    keys |= {"global_batch_size": 2, "micro_batch_size": 1}
    complete = train(random_run(tmp_path, layout, **keys, output_dir=tmp_path / "complete"))
    resumed = train(
        random_run(
            tmp_path,
            layout,
            **keys,
            output_dir=tmp_path / "on",
            resume_from=tmp_path / "complete/checkpoints/iter_0000003",
        )
    )
    names = [name for name in complete[-1] if not name.startswith(("timing", "memory")) and not name.endswith("_per_s")]
    assert [{n: m.get(n) for n in names} for m in resumed] == [{n: m.get(n) for n in names} for m in complete[3:]]
    # The reference did move, so the first step's reference would have given other numbers.
    assert complete[2]["rewards/margins"] != complete[4]["rewards/margins"]

"""Online runs that train adapters: the rollout generates like the policy with them, however it gets its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindspeed_dpo.weights import open_adapter
from tests.support.online_inputs import RULE, OnlineInputs, online_inputs
from tests.support.runs import Layout, tiny_online_run, train

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.numerics]

PLACES: dict[str, tuple[Layout, dict[str, Any]]] = {
    "in place": ((1, 1, 1), {}),
    "a copy from two stages": ((1, 2, 1), {}),
    "in place on TP2": ((2, 1, 1), {"md5_validate": True}),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> OnlineInputs:
    return online_inputs(tmp_path_factory.mktemp("adapters"))


def test_the_rollout_follows_the_adapters_wherever_it_is(inputs: OnlineInputs, tmp_path: Path) -> None:
    keys = {
        **inputs.keys, "reward_functions": [RULE], "train_iters": 3, "lora_target_modules": ["all-linear"],
        "lora_r": 8, "lr": 1e-2, "global_batch_size": 8, "micro_batch_size": 4,
    }  # fmt: skip
    runs = {
        place: train(tiny_online_run(layout, **{**keys, **settings, "output_dir": tmp_path / place}))
        for place, (layout, settings) in PLACES.items()
    }
    expected = runs.pop("in place")
    for steps in (expected, *runs.values()):
        assert steps[0]["objective/kl"] == pytest.approx(0, abs=1e-5)
        assert abs(steps[2]["objective/kl"]) > 1e-3
        # What the rollout says of its own tokens is what the policy says of them: it has this version's adapters.
        assert steps[0]["loss"] == pytest.approx(0.6931472, abs=1e-6)
    names = ("loss", "grad_norm", "objective/scores", "objective/kl", "response_length/mean")
    for place, steps in runs.items():
        for name in names:
            if name in expected[0]:
                actual = [step[name] for step in steps]
                np.testing.assert_allclose(actual, [s[name] for s in expected], rtol=1e-3, atol=1e-5, err_msg=place)
    assert open_adapter(tmp_path / "in place" / "checkpoints").settings.lora_r == 8

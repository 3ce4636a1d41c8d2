"""Online runs whose engine is a stand-in of vLLM: what they measure, and what becomes of one whose engine fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.trainers.run_inputs import open_inputs
from tests.config_effects.comparison import prompts_with_text
from tests.support.runs import train
from tests.support.vllm_python import stand_in_python
from tests.unit.workers.rollouts import online_run

pytestmark = pytest.mark.distributed

STEPS = 3
LENGTH = "tests.support.reward_functions.length"


def vllm_run(folder: Path, own: int = 1, engine: str = "", **settings: Any) -> RunConfig:
    """A run on one process, and perhaps others for the engines, with more arguments of the engine."""
    vllm = f"actor_rollout_ref.actor_rollout.vllm={{python: {stand_in_python(folder)}, timeout_s: 300{engine}}}"
    keys = {
        "data_path": prompts_with_text(),
        "train_iters": STEPS,
        "reward_functions": [LENGTH],
        "n_samples_per_prompt": 3,
        **settings,
    }
    return online_run(folder, (1, 1, 1), 1, own, [vllm], rollout_engine="vllm", **keys)


@pytest.mark.parametrize(("own", "staleness"), [(0, 0), (1, 1), (2, 0)])
def test_a_run_trains_on_the_responses_of_its_engine(own: int, staleness: int, tmp_path: Path) -> None:
    """Beside the actor, or on one or two processes of its own, while the actor trains."""
    steps = train(vllm_run(tmp_path, own, rollout_staleness=staleness, md5_validate=True))
    assert len(steps) == STEPS
    for step in steps:
        assert 0 < step["pairs/count"] <= 2 and step["response_length/max"] == 6
        # The stand-in gives every token -1.5 nats, far from what the actor does.
        assert step["rollout/logp_diff/max"] > step["rollout/logp_diff/mean"] > 0.5
        assert step["rollout/logp_diff/k3"] > 0
        assert step["objective/entropy"] > 0
    assert {step["pairs/staleness"] for step in steps[1:]} == {float(staleness)}
    assert len(list((tmp_path / "out/logs").glob("vllm_*.log"))) == max(1, own)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (", die: load", "failed in load|was killed by signal 9, as the kernel does when memory runs out"),
        (", die: generate", "was killed by signal 9, as the kernel does when memory runs out"),
        (", lacks: model.extra.weight", "1 weights of vLLM's model were not among those sent, model.extra.weight is"),
        (", infinite: true", "the policy's log-probabilities are not finite"),
    ],
)
def test_a_run_ends_with_the_failure_of_its_engine(engine: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=message):
        train(vllm_run(tmp_path, engine=engine))


def test_what_vllm_refuses_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vLLM 0\.0\.stand-in of .* refuses this run: .* argument 'max_tokens'"):
        open_inputs(vllm_run(tmp_path, engine=", max_tokens: 3"))


def test_a_model_without_its_config_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs the config\.json of the model, which random_init does not have"):
        open_inputs(vllm_run(tmp_path, load=None, random_init=True, finetune=False))

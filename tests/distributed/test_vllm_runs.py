"""Online runs whose engine is a stand-in of vLLM: what they measure, and what becomes of one whose engine fails."""

from __future__ import annotations

import shutil
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


def vllm_run(folder: Path, own: int = 1, engine: str = "", platform: str = "cpu", **settings: Any) -> RunConfig:
    """A run on one process, and perhaps others for the engines, with more arguments of the engine."""
    python = stand_in_python(folder, platform)
    vllm = f"actor_rollout_ref.actor_rollout.vllm={{python: {python}, timeout_s: 300{engine}}}"
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
    """Beside the actor, asleep while it learns, or on one or two processes of its own, while the actor trains."""
    beside: dict[str, Any] = {} if own else {"engine": ", sleep: 2", "platform": "npu"}
    steps = train(vllm_run(tmp_path, own, **beside, rollout_staleness=staleness, md5_validate=True))
    assert len(steps) == STEPS
    for step in steps:
        assert 0 < step["pairs/count"] <= 2 and step["response_length/max"] == 6
        # The stand-in gives every token -1.5 nats, far from what the actor does.
        assert step["rollout/logp_diff/max"] > step["rollout/logp_diff/mean"] > 0.5
        assert step["rollout/logp_diff/k3"] > 0
        assert step["objective/entropy"] > 0
    assert {step["pairs/staleness"] for step in steps[1:]} == {float(staleness)}
    logs = [path.read_text().splitlines() for path in (tmp_path / "out/logs").glob("vllm_*.log")]
    assert len(logs) == max(1, own)
    if not own:
        calls = [line.removeprefix("stand-in: ") for line in logs[0]]
        step = ["wake weights", "load", "wake kv_cache", *["generate"] * 6, "sleep 2"]
        # The last weights are sent as well, though nothing generates with them.
        assert calls == ["sleep 2", *step * STEPS, *step[:3]]


def test_evaluations_generate_greedily_and_change_no_training(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("with", "without")]
    for folder in folders:
        folder.mkdir()
    evaluated = train(vllm_run(folders[0], split="60,40,0", eval_interval=1))
    alone = train(vllm_run(folders[1], split="60,40,0"))
    for step, other in zip(evaluated, alone, strict=True):
        # The reward is the length, and greedy responses of the stand-in are half as long as sampled ones.
        assert step["eval/response_length/mean"] == 3 and step["eval/win_rate"] == 0.5
        assert step["response_length/max"] == 6
        assert [step[name] for name in ("loss", "grad_norm")] == [other[name] for name in ("loss", "grad_norm")]


def test_responses_of_a_reference_that_vllm_does_not_have_are_refused(tmp_path: Path) -> None:
    keys = {"split": "60,40,0", "eval_interval": 1}
    train(vllm_run(tmp_path, **keys, save_interval=1, train_iters=2))
    shutil.rmtree(tmp_path / "out" / "eval_reference")
    resumed = vllm_run(tmp_path, **keys, resume_from=tmp_path / "out", train_iters=STEPS)
    with pytest.raises(
        AssertionError, match="the reference, whose weights vLLM does not have; resume in the output_dir"
    ):
        train(resumed)


def test_sleep_is_refused_where_the_platform_has_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"refuses this run: engines cannot sleep on the platform cpu; remove"):
        open_inputs(vllm_run(tmp_path, own=0, engine=", sleep: 2"))


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (", die: load", "failed in load|was killed by signal 9, as the kernel does when memory runs out"),
        (", die: generate", "was killed by signal 9, as the kernel does when memory runs out"),
        (", lacks: model.extra.weight", "1 weights of vLLM's model were not among those sent, model.extra.weight is"),
        (", infinite: true", "the model's log-probabilities are not finite"),
        (", out_of_memory: generate", "failed in generate: OutOfMemoryError: .*; lower vllm.gpu_memory_utilization"),
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

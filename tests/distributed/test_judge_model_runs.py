"""Online runs that a judge model scores, in a stand-in of vLLM: beside the policy, on its own pool, and failing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.trainers.online_dpo import NothingScoredError
from tests.config_effects.comparison import prompts_with_text
from tests.support.judge_models import judge_engine, save_judge_folder
from tests.support.runs import train
from tests.support.vllm_python import stand_in_python
from tests.unit.workers.rollouts import online_run

pytestmark = pytest.mark.distributed

STEPS = 2


def judged_run(folder: Path, says: list[str], engine: str = "", pool: int = 0, **settings: Any) -> RunConfig:
    """A run of one process, and perhaps others for judges that say one of these texts."""
    judge = save_judge_folder(folder / "judge")
    more = [f"resource_pool.reward=[{pool}]"] if pool else []
    keys = {"data_path": prompts_with_text(), "train_iters": STEPS, "reward_functions": None, "judge_model": judge}
    keys["judge_vllm"] = judge_engine(stand_in_python(folder), says, engine)
    keys |= {"n_samples_per_prompt": 3, "judge_max_new_tokens": 50, "temperature": 1.0}
    return online_run(folder, (1, 1, 1), 1, 0, more, **{**keys, **settings})


def test_a_run_trains_on_the_scores_in_the_texts_of_judges_on_processes_of_their_own(tmp_path: Path) -> None:
    steps = train(judged_run(tmp_path, ["Fine. [[2]]", "Well. [[7]]", "Hm."], pool=2, judge_unparsed_score=1.5))
    assert len(steps) == STEPS
    for step in steps:
        assert {step["reward/score/min"], step["reward/score/max"]} <= {1.5, 2.0, 7.0}
        assert step["pairs/failed"] == 0 and step["judge/cut"] == 0 and 0 <= step["judge/unparsed"] < 1
    assert sum(step["pairs/count"] for step in steps) > 0
    assert sorted(path.name for path in (tmp_path / "out/logs").glob("judge_*.log")) == ["judge_0.log", "judge_1.log"]


def test_a_run_whose_judge_says_nothing_that_can_be_read_ends_with_an_example(tmp_path: Path) -> None:
    # Every two of three responses to two prompts, in both orders.
    with pytest.raises(NothingScoredError, match=r"none of the 12 texts of judge_model has a verdict; .*'I like'"):
        train(judged_run(tmp_path, ["I like"], judge_mode="pairwise", judge_unparsed_score=0.5))


def test_a_run_ends_with_the_failure_of_its_judge(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"the vLLM engine of judge_model .* was killed by signal 9"):
        train(judged_run(tmp_path, ["[[2]]"], ", die: generate"))

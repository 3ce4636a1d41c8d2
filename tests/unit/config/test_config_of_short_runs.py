"""The short way to a configuration, which tests of runs take, ends where `load_run` ends."""

from __future__ import annotations

import pytest

from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.load import load_run
from tests.support.composing import load_quickly
from tests.unit.workers.pairs import write_pairs
from tests.unit.workers.rollouts import write_inputs

ACTOR = "actor_rollout_ref.actor_rollout"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """By configuration, the overrides that name what a run reads."""
    folder = tmp_path_factory.mktemp("short")
    write_inputs(folder)
    write_pairs(folder / "pairs")
    names = {"offline_dpo_trainer_tiny": "pairs", "online_dpo_trainer_tiny": "prompts"}
    keys = [f"{ACTOR}.load={folder / 'hf'}", f"training.tokenizer_name_or_path={folder / 'tokenizer'}"]
    keys += ["training.eval_interval=null", "training.split='100,0,0'", f"training.output_dir={folder / 'out'}"]
    return {name: [*keys, f"{ACTOR}.data_path={folder / data}"] for name, data in names.items()}


@pytest.mark.parametrize("name", ["offline_dpo_trainer_tiny", "online_dpo_trainer_tiny"])
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["training.lr_decay_iters=7", f"{ACTOR}.lr=1e-3", "training.seed=1_0", f"{ACTOR}.dpo_loss_type=[sigmoid,ipo]"],
        [f"{ACTOR}.loss_weights=[1,2.5]", f"{ACTOR}.dpo_loss_type=[sigmoid,ipo]", "training.global_batch_size=16"],
        ["resource_pool.actor_rollout=[2,2]", f"{ACTOR}.sequence_parallel=false", "training.split=98,1,1"],
        ["model.tiny.num_layers=4", f"{ACTOR}.bf16=true", "training.split='90, 10, 0'", "training.wandb_project=a b"],
        ["training.eval-interval=null", "+training.train_iters=3", f"~{ACTOR}.weight_decay"],
        ["reward.reward_functions=[a.b,c.d]", "training.ray_address=10.0.0.1:6379", f"{ACTOR}.min_lr=0"],
    ],
    ids=lambda overrides: overrides[0] if overrides else "as shipped",
)
def test_it_reads_overrides_as_hydra_does(name: str, overrides: list[str], inputs: dict[str, list[str]]) -> None:
    def loaded(load) -> object:  # type: ignore[no-untyped-def]
        try:
            return load(name, [*inputs[name], *overrides])
        except ConfigError as actual:
            return actual.problems

    assert loaded(load_quickly) == loaded(load_run)

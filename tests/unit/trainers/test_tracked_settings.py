"""The settings of a run as trackers list them."""

from __future__ import annotations

from mindspeed_dpo.trainers.trackers import tracked_settings


def test_settings_have_short_names_and_plain_values() -> None:
    tree = {
        "training": {"seed": 42, "report": True, "eval_data_path": {"chat": "held_out"}},
        "actor_rollout_ref": {"actor_rollout": {"lr": 1e-6, "dpo_loss_type": ("sigmoid",)}, "ref": {"bf16": False}},
        "resource_pool": {"actor_rollout": [2]},
    }
    assert dict(tracked_settings(tree)) == {
        "training.seed": 42,
        "training.report": True,
        "training.eval_data_path.chat": "held_out",
        "actor.lr": 1e-6,
        "actor.dpo_loss_type": "[sigmoid]",
        "ref.bf16": False,
        "resource_pool.actor_rollout": "[2]",
    }

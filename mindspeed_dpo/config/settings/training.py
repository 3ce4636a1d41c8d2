"""What the driver decides for the whole run: which trainer, how long, what is written where, on which devices."""

from __future__ import annotations

from dataclasses import dataclass

from mindspeed_dpo.config.settings.evaluation import EvaluationConfig
from mindspeed_dpo.config.settings.field import at_least, setting, within
from mindspeed_dpo.config.settings.trackers import TrackerConfig

ONLINE_STAGE = "ray_online_dpo"

_OTHER = "another trainer; this project trains dpo and ray_online_dpo"
_NOT_YET = "not built yet in this version; stages dpo and ray_online_dpo are"


@dataclass(frozen=True, kw_only=True)
class LoopConfig(EvaluationConfig, TrackerConfig):
    """Settings of the driver; every one of them holds for all roles."""

    stage: str = setting(
        help="Which trainer: dpo learns from given pairs, ray_online_dpo from the policy's own answers. A step is an "
        "optimizer step of the one and an iteration of the other.",
        choices=("dpo", ONLINE_STAGE),
        not_yet={
            "simpo": "use stage dpo with dpo_loss_type: simpo; simpo_beta is dpo_beta there",
            "orm": f"reward-model training is {_NOT_YET}",
            **dict.fromkeys(("sft", "prm", "ray_ppo", "ray_grpo", "trl_ppo"), _OTHER),
        },
        shared=True,
    )
    train_iters: int = setting(help="Length of the run.", unit="steps", check=at_least(1), shared=True)
    log_interval: int = setting(1, help="Steps between progress lines.", unit="steps", check=at_least(1), shared=True)
    seed: int = setting(
        1234, help="Seed of data order, random weights and sampling.", check=within(0, 2**31), shared=True
    )
    output_dir: str = setting(
        derived="outputs/<config name>/<start time>", help="Everything a run writes lies here.", shared=True
    )
    device: str = setting(
        "auto",
        help="What to compute on; auto takes NPU, then CUDA, then CPU.",
        choices=("auto", "cpu", "cuda", "npu"),
        shared=True,
    )
    master_port: int | None = setting(
        None,
        help="Port where the processes of the first pool meet, the next pool's is one higher; null takes free ones.",
        check=within(1, 65536),
        shared=True,
    )
    ray_address: str | None = setting(
        None,
        help="Address of a running Ray cluster; null: RAY_ADDRESS, else what `ray start` began here, else its own.",
        shared=True,
    )
    ray_resource: str | None = setting(
        None,
        help="Ray resource that a process takes one of; null is the device's own. NPU with device=cpu tries the "
        "placement of a cluster without its devices.",
        choices=("CPU", "GPU", "NPU"),
        shared=True,
    )
    log_token_statistics: bool = setting(
        True,
        help="Also measure entropy and token accuracy of the policy, at some cost: the fused head of "
        "torch_npu 2.13 is used only without them.",
        shared=True,
    )

    @property
    def is_online(self) -> bool:
        """Whether the policy learns from its own answers."""
        return self.stage == ONLINE_STAGE

"""Settings of the driver: the trainer, the length of the run, its output directory and its devices."""

from __future__ import annotations

from dataclasses import dataclass

from mindspeed_dpo.config.settings.evaluation import EvaluationConfig
from mindspeed_dpo.config.settings.setting import at_least, setting, within
from mindspeed_dpo.config.settings.trackers import TrackerConfig

ONLINE_STAGE = "ray_online_dpo"

_OTHER_TRAINER = "another trainer; this project trains dpo and ray_online_dpo"


@dataclass(frozen=True, kw_only=True)
class LoopConfig(EvaluationConfig, TrackerConfig):
    """Settings of the training loop; every one of them holds for all roles."""

    stage: str = setting(
        help="Trainer: dpo trains on given pairs, ray_online_dpo on responses of the policy. A step is one optimizer "
        "step of dpo, or one iteration of ray_online_dpo.",
        choices=("dpo", ONLINE_STAGE),
        refused={
            "simpo": "use stage dpo with dpo_loss_type: simpo; simpo_beta is dpo_beta there",
            "orm": "reward-model training is not implemented; the stages are dpo and ray_online_dpo",
            **dict.fromkeys(("sft", "prm", "ray_ppo", "ray_grpo", "trl_ppo"), _OTHER_TRAINER),
        },
        shared=True,
    )
    train_iters: int = setting(help="Length of the run.", unit="steps", check=at_least(1), shared=True)
    log_interval: int = setting(1, help="Steps between progress lines.", unit="steps", check=at_least(1), shared=True)
    seed: int = setting(
        1234, help="Seed of the data order, of random weights and of sampling.", check=within(0, 2**31), shared=True
    )
    output_dir: str = setting(
        derived="outputs/<config name>/<start time>",
        help="Directory of all files that the run writes.",
        shared=True,
        is_path=True,
    )
    device: str = setting(
        "auto",
        help="Device type; auto uses the first available of NPU, CUDA and CPU.",
        choices=("auto", "cpu", "cuda", "npu"),
        shared=True,
    )
    master_port: int | None = setting(
        None,
        help="Rendezvous port of the first pool's processes; each further pool uses the next port. Null uses free "
        "ports between machines and none on a single one.",
        check=within(1, 65536),
        shared=True,
    )
    ray_address: str | None = setting(
        None,
        help="Address of a running Ray cluster; null uses RAY_ADDRESS, else the cluster that this user began on "
        "this machine with `ray start`, else one of the run's own.",
        shared=True,
    )
    ray_resource: str | None = setting(
        None,
        help="Ray resource of which each process takes one; null uses that of the device. NPU with device=cpu tests "
        "the placement on a cluster without using its devices.",
        choices=("CPU", "GPU", "NPU"),
        shared=True,
    )
    log_token_statistics: bool = setting(
        True,
        help="Also measure entropy and token accuracy of the policy. This costs time: the fused head of torch_npu 2.13 "
        "is used only without them.",
        shared=True,
    )

    @property
    def is_online(self) -> bool:
        """Whether the policy trains on its own responses."""
        return self.stage == ONLINE_STAGE

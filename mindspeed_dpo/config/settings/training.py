"""Settings of the driver: the trainer, the length of the run, its output directory and its devices."""

from __future__ import annotations

from dataclasses import dataclass

from mindspeed_dpo.config.settings.evaluation import EvaluationConfig
from mindspeed_dpo.config.settings.setting import POSITIVE, at_least, setting, within
from mindspeed_dpo.config.settings.trackers import TrackerConfig

ONLINE_STAGE, REWARD_MODEL_STAGE = "ray_online_dpo", "rm"

_OTHER_TRAINER = f"another trainer; this project trains dpo, {REWARD_MODEL_STAGE} and {ONLINE_STAGE}"


@dataclass(frozen=True, kw_only=True)
class LoopConfig(EvaluationConfig, TrackerConfig):
    """Settings of the training loop; every one of them holds for all roles."""

    stage: str = setting(
        help="Trainer: dpo trains a policy on given pairs, rm a reward model on given pairs, ray_online_dpo a policy "
        "on its own responses. A step is one optimizer step of dpo and rm, or one iteration of ray_online_dpo.",
        choices=("dpo", REWARD_MODEL_STAGE, ONLINE_STAGE),
        synonyms={"orm": REWARD_MODEL_STAGE},
        refused={
            "simpo": "use stage dpo with dpo_loss_type: simpo; simpo_beta is dpo_beta there",
            **dict.fromkeys(("sft", "prm", "ray_ppo", "ray_grpo", "trl_ppo"), _OTHER_TRAINER),
        },
        shared=True,
    )
    train_iters: int = setting(
        derived="num_train_epochs epochs of the training rows",
        help="Length of the run; required without num_train_epochs.",
        unit="steps",
        check=at_least(1),
        shared=True,
    )
    num_train_epochs: float | None = setting(
        None,
        help="Length of the run in epochs of its training rows, instead of train_iters; the commands convert it to "
        "steps once the rows are counted.",
        unit="epochs",
        check=POSITIVE,
        shared=True,
    )
    layout: str | None = setting(
        None,
        help="With auto, the commands choose tensor-, pipeline- and expert-parallel sizes and recomputation that fit "
        "the devices and their memory, as far as none of them is set; the plan explains the choice.",
        choices=("auto",),
        shared=True,
    )
    device_memory_gib: float | None = setting(
        None,
        help="Memory of a device, for layout: auto; null takes that of this machine on the CPU, 64 on NPU and 80 on "
        "CUDA.",
        unit="GiB",
        check=POSITIVE,
        shared=True,
    )
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

    @property
    def trains_reward_model(self) -> bool:
        """Whether a reward model is trained instead of a policy."""
        return self.stage == REWARD_MODEL_STAGE

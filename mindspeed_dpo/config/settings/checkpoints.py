"""Checkpoints: where a role's weights and state come from and go to. Nothing is opened here."""

from __future__ import annotations

from dataclasses import dataclass

from mindspeed_dpo.config.settings.setting import at_least, setting


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Initial weights, checkpoints written, and resumption."""

    load: str | None = setting(
        None,
        help="Initial weights: a Hugging Face directory, converted weights or a training checkpoint.",
        is_path=True,
    )
    random_init: bool = setting(False, help="Start from random weights; required if `load` is not set.")
    save: str = setting(
        derived="<output_dir>/checkpoints", help="Directory of the checkpoints that the run writes.", is_path=True
    )
    save_interval: int | None = setting(
        None,
        help="Steps between checkpoints; null writes only the one at the end, which is always written.",
        unit="steps",
        check=at_least(1),
        shared=True,
    )
    export_hf: bool = setting(
        False,
        help="At the end also write the result as a Hugging Face folder, `<output_dir>/hf`, or with adapters as a PEFT "
        "folder, `<output_dir>/adapter`, with a model card. Runs without a configuration file do by default.",
        shared=True,
    )
    async_save: bool = setting(
        False,
        help="Copy a checkpoint to host memory and write it in the background while training continues; needs host "
        "memory for the files that each process writes.",
    )
    keep_last_checkpoints: int | None = setting(
        None,
        help="Number of most recent checkpoints to keep; older ones are deleted after a newer one is complete, except "
        "for the best. Null keeps all.",
        unit="checkpoints",
        check=at_least(1),
        shared=True,
    )
    finetune: bool = setting(
        False, help="Load only the weights from `load` and start at step 0; does not affect resume_from."
    )
    no_load_optim: bool = setting(
        False, help="Do not load the optimizer state from `load`; does not affect resume_from."
    )
    no_load_rng: bool = setting(
        False, help="Do not load the random-number state from `load`; does not affect resume_from."
    )
    no_save_optim: bool = setting(
        False, help="Do not save the optimizer state; such checkpoints cannot be resumed from."
    )
    no_save_rng: bool = setting(False, help="Do not save the random-number state.")
    resume_from: str | None = setting(
        None,
        help="Resume an interrupted run exactly: path of one of its checkpoints, or its output_dir for the latest.",
        is_path=True,
    )
    resume: str = setting(
        "latest",
        help="Checkpoint of resume_from to take: latest takes the newest and stops if it is damaged; latest_whole "
        "compares all files with their digests first and takes the newest that is undamaged. Without resume_from, "
        "latest_whole resumes from `save`, and starts at step 0 if that has no checkpoint.",
        choices=("latest", "latest_whole"),
    )
    load_checkpoint_loosely: bool = setting(
        False, help="Accept weights with missing or unexpected names; each is reported."
    )
    drop_mtp_layers: bool = setting(
        False,
        help="Accept weights with layers that predict further tokens (MTP), as those of GLM-4.5, and load the model "
        "without them, in all roles; checkpoints do not contain them.",
    )

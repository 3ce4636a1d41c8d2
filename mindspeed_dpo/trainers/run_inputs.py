"""Opens and checks everything a run reads, on the driver: all inputs are validated before a device is allocated."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.data import DataConfig
from mindspeed_dpo.config.settings.evaluation import HOLD_OUT
from mindspeed_dpo.config.validation.evaluation import evaluation_sets
from mindspeed_dpo.controller.role_groups import ActorGroup
from mindspeed_dpo.data.datasets.row_filtering import Splits
from mindspeed_dpo.data.datasets.splits_and_blending import parse_data_path
from mindspeed_dpo.data.datasets.train_eval import TrainEvalPairs, TrainEvalPrompts
from mindspeed_dpo.data.indexed.column_group import PAIR_COLUMNS, PROMPT_COLUMNS
from mindspeed_dpo.data.indexed.column_group_metadata import check_fingerprints
from mindspeed_dpo.data.tokenization.tokenizer import tokenizer_fingerprint
from mindspeed_dpo.observability.live_status import live_status
from mindspeed_dpo.trainers.output_checks import check_output_is_unused
from mindspeed_dpo.trainers.resuming.resume import ResumePoint, find_resume_point, with_reference_of
from mindspeed_dpo.trainers.resuming.resume_checks import weights_identity
from mindspeed_dpo.trainers.vocabulary_check import check_vocabulary
from mindspeed_dpo.weights.hf.hf_config import describe_differences, read_model_config
from mindspeed_dpo.workers.rewards.function_scorer import check_functions
from mindspeed_dpo.workers.rewards.hf_classifier_inputs import is_classifier
from mindspeed_dpo.workers.rewards.judge_model_setup import check_judge_columns, check_judge_model
from mindspeed_dpo.workers.rewards.reward_tokenizer import check_reward_tokenizer
from mindspeed_dpo.workers.setup.initial_weights import open_initial_adapter, open_initial_weights
from mindspeed_dpo.workers.setup.objective_and_schedule import learning_rate_of
from mindspeed_dpo.workers.setup.open_datasets import evaluation_data, open_dataset
from mindspeed_dpo.workers.setup.stop_tokens import stop_ids
from mindspeed_dpo.workers.setup.vllm_check import check_vllm

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunInputs:
    """The inputs of a run, opened and checked.

    Attributes:
        config: Settings of the run, with those it takes over from the run it resumes.
        dataset: All pairs, or online all prompts, that remain after filtering, and the sets to evaluate on.
        splits: Rows for training and for evaluation.
        resume_point: The checkpoint that the run resumes from; None for a new run.
        weights: Fingerprints of the contents of the initial and the reference weights; None for random or no weights.
            Empty if they were not read.
    """

    config: RunConfig
    dataset: TrainEvalPairs | TrainEvalPrompts
    splits: Splits
    resume_point: ResumePoint | None
    weights: Mapping[str, str | None]

    @property
    def recorded(self) -> dict[str, Any]:
        """The record of this run in its checkpoints, for the checks and the report of a run that resumes it."""
        return {"settings": self.config.as_tree(), "weights": dict(self.weights)}

    @property
    def first_step(self) -> int:
        """Steps completed by the run that is resumed."""
        return 0 if self.resume_point is None else self.resume_point.iteration

    def total(self, name: str) -> int:
        """Return a counter of the run that is resumed; 0 for a new run."""
        return 0 if self.resume_point is None else self.resume_point.totals.get(name, 0)

    def load_checkpoint(self, actor: ActorGroup) -> None:
        """Load the checkpoint into the actor, if the run resumes."""
        if self.resume_point is None:
            return
        with live_status.phase("loading the checkpoint"):
            actor.load(str(self.resume_point.folder), self.resume_point.optimizer, self.resume_point.rng)


def open_inputs(config: RunConfig, with_fingerprints: bool = True) -> RunInputs:
    """Open data, weights and checkpoint and check that they fit the configuration.

    Args:
        config: Settings of the run.
        with_fingerprints: Read all weights for their fingerprints, which checkpoints record.

    Raises:
        ValueError: One of them does not fit.
        OSError: A file cannot be read.
    """
    learning_rate_of(config.actor, config.loop.train_iters)
    for data in (config.actor.data, *evaluation_data(config).values()):
        check_data(data, PROMPT_COLUMNS if config.is_online else PAIR_COLUMNS)
    dataset = open_dataset(config)
    logger.info("%s: %s", config.actor.data.data_path, dataset.counts.summary())
    if isinstance(dataset, TrainEvalPrompts):
        check_stop_ids(config.actor)
        _check_reward(config, dataset)
    check_vocabulary(config, dataset)
    splits = dataset.splits(config.actor.data.split)
    _check_best(config, splits)
    resume_point = find_resume_point(config, len(dataset))
    if resume_point is None:
        check_output_is_unused(config)
    else:
        config = with_reference_of(config, resume_point)
    for role in (config.actor, config.ref):
        if role is not None:
            check_weights(role)
    # Opened only for its checks.
    open_initial_adapter(config.actor)
    if config.rollout is not None and config.rollout.rollout.uses_vllm:
        check_vllm(config.rollout)
    return RunInputs(config, dataset, splits, resume_point, weights_identity(config) if with_fingerprints else {})


def _check_best(config: RunConfig, splits: Splits) -> None:
    """Check that best_metric is not measured on a hold-out that is empty.

    Raises:
        ValueError: It is.
    """
    if config.loop.best_metric and not len(splits.valid) and HOLD_OUT in evaluation_sets(config):
        raise ValueError(
            f"split={config.actor.data.split} leaves no row for evaluation, so there is no best_metric="
            f"{config.loop.best_metric}; give evaluation a larger share"
        )


def _check_reward(config: RunConfig, prompts: TrainEvalPrompts) -> None:
    """Check that the scorer can be called, and that the dataset has the columns that it reads.

    Raises:
        ValueError: It cannot be called, or a column is missing.
    """
    role = config.reward
    assert role is not None
    check_functions(role.reward)
    check_reward_tokenizer(config, prompts)
    if role.reward_source == "judge_model":
        check_judge_columns(role.reward, prompts)
        check_judge_model(role)
    if role.reward_source == "model" and not is_classifier(role):
        check_weights(role)


def check_stop_ids(role: RoleConfig) -> None:
    """Check that a token ends the responses of a role.

    Raises:
        ValueError: There is none.
    """
    if not stop_ids(role):
        data = role.data
        raise ValueError(
            f"tokenizer_name_or_path={data.tokenizer_name_or_path} has no end token, nor do prompt_type="
            f"{data.prompt_type} and generation_config.json of load={role.checkpoint.load} give one, so every response "
            "would run to its limit; set eos_token in tokenizer_config.json or eos_token_id in generation_config.json"
        )


def check_data(data: DataConfig, columns: Sequence[str]) -> None:
    """Check that data was preprocessed with the configured tokenizer and template, as far as its metadata says.

    Raises:
        ValueError: It was preprocessed with others.
    """
    tokenizer = tokenizer_fingerprint(data.tokenizer_name_or_path) if data.tokenizer_name_or_path else None
    for source in parse_data_path(data.data_path):
        check_fingerprints(source.prefix, columns, tokenizer_fingerprint=tokenizer, prompt_type=data.prompt_type)


def check_weights(role: RoleConfig) -> None:
    """Check that the weights a role loads fit its model.

    Raises:
        ValueError: A tensor is missing or has another shape, or the Hugging Face config beside the weights differs
            from the model section.
    """
    source = open_initial_weights(role)
    if source is None:
        return
    source.check(role.model)
    assets = source.assets()
    if assets is None or not (assets / "config.json").is_file():
        return
    of_weights = read_model_config(assets)
    differences = describe_differences(role.model, of_weights, reward=role.has_score_head)
    if differences:
        raise ValueError(f"{source.path} differs from the model section of the configuration: {'; '.join(differences)}")

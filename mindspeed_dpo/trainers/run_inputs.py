"""What a run reads, opened and checked on the driver: nothing that does not fit gets as far as a device."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.data import DataConfig
from mindspeed_dpo.config.settings.evaluation import HOLD_OUT
from mindspeed_dpo.config.validation.evaluation import evaluation_sets
from mindspeed_dpo.data.datasets.dataset import PromptDataset
from mindspeed_dpo.data.datasets.filtering import Splits
from mindspeed_dpo.data.datasets.splits import parse_data_path
from mindspeed_dpo.data.datasets.train_eval import EvaluatedPairs
from mindspeed_dpo.data.indexed.column_group import check_identity
from mindspeed_dpo.data.tokenization.tokenizer import tokenizer_fingerprint
from mindspeed_dpo.trainers.resume import (
    Continuation,
    check_fresh_places,
    find_continuation,
    with_reference_of,
)
from mindspeed_dpo.weights.hf_config import describe_differences, model_config_from_hf, read_hf_config
from mindspeed_dpo.workers.interfaces import Actor
from mindspeed_dpo.workers.rewards.functions import check_functions
from mindspeed_dpo.workers.rewards.hf_classifier_inputs import is_classifier
from mindspeed_dpo.workers.rewards.tokenizers import check_reward_tokenizer
from mindspeed_dpo.workers.setup.objectives import learning_rate_of
from mindspeed_dpo.workers.setup.sources import (
    REWARD,
    evaluation_data,
    open_dataset,
    open_initial_adapter,
    open_initial_weights,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What a run reads, opened and checked on the driver before any device is taken.

    Attributes:
        config: The run, with what it takes over from an earlier one.
        dataset: All pairs, or online all prompts, that are fit for training, and the sets to evaluate on.
        splits: Which of them are for what.
        continuation: Where the run goes on from, if it does.
    """

    config: RunConfig
    dataset: EvaluatedPairs | PromptDataset
    splits: Splits
    continuation: Continuation | None

    @property
    def first_step(self) -> int:
        """Steps done before."""
        return 0 if self.continuation is None else self.continuation.iteration

    def total(self, name: str) -> int:
        """What was counted before under a name."""
        return 0 if self.continuation is None else self.continuation.totals.get(name, 0)

    def continue_with(self, actor: Actor) -> None:
        """Let a freshly built actor take up the earlier run, if there is one."""
        if self.continuation is not None:
            actor.load(str(self.continuation.folder), self.continuation.optimizer, self.continuation.rng)


def open_inputs(config: RunConfig) -> Inputs:
    """Open data, weights and checkpoint and see that they fit the configuration.

    Raises:
        ValueError: Something does not fit.
        OSError: Something cannot be read.
    """
    learning_rate_of(config.actor, config.loop.train_iters)
    for data in (config.actor.data, *evaluation_data(config).values()):
        check_data(data)
    dataset = open_dataset(config)
    logger.info("%s: %s", config.actor.data.data_path, dataset.counts.sentence())
    if isinstance(dataset, PromptDataset):
        _check_reward(config, dataset)
    splits = dataset.splits(config.actor.data.split)
    _check_best(config, splits)
    continuation = find_continuation(config, len(dataset))
    if continuation is None:
        check_fresh_places(config)
    else:
        config = with_reference_of(config, continuation)
    for role in (config.actor, config.ref):
        if role is not None:
            check_weights(role)
    # Opened for its checks alone.
    open_initial_adapter(config.actor)
    return Inputs(config, dataset, splits, continuation)


def _check_best(config: RunConfig, splits: Splits) -> None:
    """See that best_metric is not of a hold-out that has turned out empty.

    Raises:
        ValueError: It is.
    """
    if config.loop.best_metric and not len(splits.valid) and HOLD_OUT in evaluation_sets(config):
        raise ValueError(
            f"split={config.actor.data.split} leaves no row for evaluation, so there is no best_metric="
            f"{config.loop.best_metric}; give evaluation a larger share"
        )


def _check_reward(config: RunConfig, prompts: PromptDataset) -> None:
    """See that whatever scores can be called, and reads the columns that there are.

    Raises:
        ValueError: It cannot.
    """
    role = config.reward
    assert role is not None
    check_functions(role.reward)
    check_reward_tokenizer(config, prompts)
    if role.reward_source == "model" and not is_classifier(role):
        check_weights(role)


def check_data(data: DataConfig) -> None:
    """See that data was made with the tokenizer and template that are named, as far as it says.

    Raises:
        ValueError: It was made with others.
    """
    tokenizer = tokenizer_fingerprint(data.tokenizer_name_or_path) if data.tokenizer_name_or_path else None
    for source in parse_data_path(data.data_path):
        check_identity(source.prefix, tokenizer_fingerprint=tokenizer, prompt_type=data.prompt_type)


def check_weights(role: RoleConfig) -> None:
    """See that the weights a role loads are those of its model.

    Raises:
        ValueError: A tensor is missing or has another shape, or the Hugging Face config beside the weights says
            something else than the model section about what they compute.
    """
    source = open_initial_weights(role)
    if source is None:
        return
    source.check(role.model)
    assets = source.assets()
    if assets is None or not (assets / "config.json").is_file():
        return
    found = model_config_from_hf(read_hf_config(assets))
    differences = describe_differences(role.model, found, reward=role.name == REWARD)
    if differences:
        raise ValueError(f"{source.path} holds another model than the configuration: {'; '.join(differences)}")

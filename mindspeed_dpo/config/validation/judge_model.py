"""Rules about a judge model: its question, what counts as a verdict, its engine and the engine's devices."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from mindspeed_dpo.config.issues import Violation
from mindspeed_dpo.config.name_suggestions import did_you_mean, join_words
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.settings.generation import SLEEP
from mindspeed_dpo.config.settings.judge_template import OTHER_PLACEHOLDERS, PAIRWISE, SHOWN, placeholders
from mindspeed_dpo.config.settings.reward_sources import RewardConfig
from mindspeed_dpo.config.sourced_values import format_value
from mindspeed_dpo.config.validation.engine_settings import check_engine_settings

ARGUMENTS_OF_KEYS = {
    "model": "judge_model",
    "tokenizer": "judge_model",
    "tensor_parallel_size": "judge_tensor_model_parallel_size",
    "data_parallel_size": "resource_pool.reward",
    "pipeline_parallel_size": "judge_tensor_model_parallel_size",
    "seed": "seed",
}
"""Arguments of the judge model's engine that follow from a key of this project, and the key."""
FIXED_ARGUMENTS = ("skip_tokenizer_init", "generation_config", "distributed_executor_backend")


def check_judge_model(run: RunConfig) -> Iterator[Violation]:
    """Check the settings of a judge model, where one scores."""
    settings = run.actor.reward
    if settings.reward_source != "judge_model":
        return
    yield from _check_template(settings)
    yield from _check_verdict(settings)
    yield from _check_engine(settings)
    yield from _check_devices(run, settings.judge_tensor_model_parallel_size)


def _check_template(settings: RewardConfig) -> Iterator[Violation]:
    mode, columns = settings.judge_mode, settings.dataset_additional_keys
    own = [*SHOWN[mode], *OTHER_PLACEHOLDERS[mode]]
    reserved = [name for name in columns if name in own]
    if reserved:
        yield Violation(
            ("dataset_additional_keys", "judge_mode"),
            f"names {reserved[0]}, which judge_template gets anyway; rename the column",
        )
    used = placeholders(settings.judge_question)
    unknown = [name for name in used if name not in (*own, *columns)]
    if unknown:
        yield Violation(
            ("judge_template", "judge_mode", "dataset_additional_keys"),
            f"has the placeholder {_braced(unknown[:1])}; with judge_mode={mode} it may have {_braced(own)}, and "
            f"columns that dataset_additional_keys lists{did_you_mean(unknown[0], [*own, *columns])}",
        )
    absent = [name for name in SHOWN[mode] if name not in used]
    if absent:
        yield Violation(
            ("judge_template", "judge_mode"),
            f"lacks {_braced(absent)}, without which judge_model does not see what it judges",
        )


def _braced(names: Iterable[str]) -> str:
    return join_words((f"{{{name}}}" for name in names), "and")


def _check_verdict(settings: RewardConfig) -> Iterator[Violation]:
    try:
        num_groups = re.compile(settings.judge_pattern).groups
    except re.error as error:
        yield Violation(("judge_verdict",), f"is not a regular expression: {error}")
        return
    if num_groups != 1:
        yield Violation(
            ("judge_verdict",),
            f"has {num_groups} groups; it must have one, around the verdict; groups that only group are written (?:…)",
        )
    unparsed = settings.judge_unparsed_score
    if settings.judge_mode == PAIRWISE and unparsed is not None and not 0 <= unparsed <= 1:
        yield Violation(
            ("judge_unparsed_score", "judge_mode"),
            "must be at least 0 and at most 1 with judge_mode=pairwise, where 0.5 is a tie",
        )


def _check_engine(settings: RewardConfig) -> Iterator[Violation]:
    arguments = settings.judge_vllm_arguments()
    yield from check_engine_settings(
        "judge_vllm", arguments, settings.judge_vllm_setting, ARGUMENTS_OF_KEYS, FIXED_ARGUMENTS
    )
    if SLEEP in arguments:
        yield Violation(("judge_vllm",), f"sets {SLEEP}, which only the rollout's engine does; remove it")


def _check_devices(run: RunConfig, size: int) -> Iterator[Violation]:
    """Check that engines of several devices have a pool of their own, whose nodes hold complete engines."""
    key = "judge_tensor_model_parallel_size"
    nodes = run.pools.get("reward")
    if nodes is None:
        if size > 1:
            yield Violation((key,), f"requires devices for judge_model alone; set resource_pool.reward to [{size}]")
    elif any(processes % size for processes in nodes):
        yield Violation(
            (key, "reward"), f"does not divide the processes of each node of resource_pool.reward={format_value(nodes)}"
        )

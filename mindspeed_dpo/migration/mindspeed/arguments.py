"""Arguments of MindSpeed-LLM and MindSpeed-RL, from a script or a YAML file, to settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindspeed_dpo.config.legacy_keys import canonical_key
from mindspeed_dpo.config.loading.value_parsing import parse_plain, scalar_type
from mindspeed_dpo.config.settings.registry import SETTINGS
from mindspeed_dpo.config.validation.evaluation import split_shares
from mindspeed_dpo.migration.migration_error import MigrationError
from mindspeed_dpo.migration.mindspeed.key_rules import rule_of
from mindspeed_dpo.migration.model_files import model_of_size
from mindspeed_dpo.migration.outcome import Migration
from mindspeed_dpo.migration.rules import apply_rule

SIMPO_BETA = 2.5
"""MindSpeed-LLM's default."""


def convert_arguments(arguments: Mapping[str, Any], migration: Migration, tool: str, location: str) -> None:
    """Convert all arguments of a run.

    Args:
        arguments: Keys with `_` for `-`, and values.
        migration: Receives settings and reports.
        tool: Name of the trainer.
        location: The file, which begins the message of an error.

    Raises:
        MigrationError: The stage is one that this project does not have.
    """
    migration.set("stage", _stage(arguments, migration, location))
    for key, value in arguments.items():
        if value is not None and value != "":
            apply_rule(key, value, rule_of(key), migration, tool)
    _set_loss(arguments, migration)
    _set_data_path(arguments, migration)
    _set_normalisation_of_gates(arguments, migration)
    _set_vocabulary(migration)
    _drop_evaluation_without_rows(migration)


def text_of(words: list[str], key: str) -> Any:
    """The value of a flag with these words: true without a word, a list where the setting is one, else one text."""
    if not words:
        return True
    name = canonical_key(key)
    if name in SETTINGS and scalar_type(SETTINGS[name].type)[1]:
        return [part for word in words for part in word.split(",") if part]
    return words[0] if len(words) == 1 else " ".join(words)


def _stage(arguments: Mapping[str, Any], migration: Migration, location: str) -> str:
    stage = arguments.get("stage")
    if stage == "simpo":
        migration.changed.append(("stage=simpo", "stage=dpo, dpo_loss_type=simpo", ""))
        return "dpo"
    if stage is None:
        if not parse_plain(arguments.get("is_pairwise_dataset")):
            raise MigrationError(
                f"{location}: neither stage nor is_pairwise_dataset is given; only scripts of preference training "
                "(stage dpo, simpo or orm) can be converted"
            )
        migration.changed.append(("is_pairwise_dataset without stage", "stage=dpo", ""))
        return "dpo"
    info = SETTINGS["stage"].info
    if str(stage) in info.refused or info.synonyms.get(str(stage), str(stage)) not in info.choices:
        raise MigrationError(f"{location}: stage {stage} cannot be converted; this project trains dpo, simpo and orm")
    return info.synonyms.get(str(stage), str(stage))


def _set_loss(arguments: Mapping[str, Any], migration: Migration) -> None:
    is_simpo = arguments.get("stage") == "simpo"
    if is_simpo:
        migration.set("dpo_loss_type", "simpo")
        migration.set("dpo_beta", SIMPO_BETA, "" if "simpo_beta" in arguments else "simpo_beta, not given")
    elif "dpo_loss_type" in arguments:
        migration.set("dpo_loss_type", arguments["dpo_loss_type"])
    for key, target in (("simpo_beta", "dpo_beta"), ("simpo_label_smoothing", "dpo_label_smoothing")):
        if key in arguments and is_simpo:
            migration.set(target, arguments[key], f"{key}={arguments[key]}")
        elif key in arguments:
            migration.leave_out(f"{key}={arguments[key]}", "only stage simpo uses it")
    if is_simpo and "dpo_loss_type" in arguments:
        migration.leave_out(f"dpo_loss_type={arguments['dpo_loss_type']}", "stage simpo does not use it")


def _set_data_path(arguments: Mapping[str, Any], migration: Migration) -> None:
    """Set the data; a list of weights and paths, which are words in a script, is joined by commas."""
    value = arguments.get("data_path")
    if value in (None, ""):
        return
    words = value if isinstance(value, list) else str(value).split()
    is_mixture = len(words) > 1 and (isinstance(value, list) or isinstance(parse_plain(words[0]), int | float))
    written = f"data_path={value}" if is_mixture else ""
    migration.set("data_path", ",".join(map(str, words)) if is_mixture else value, written)


def _set_normalisation_of_gates(arguments: Mapping[str, Any], migration: Migration) -> None:
    """Set whether gates are divided by their sum: softmax over the chosen experts only is the same."""
    if not migration.settings.get("num_experts"):
        return
    given = parse_plain(arguments.get("norm_topk_prob")) is True
    pre_softmax = parse_plain(arguments.get("moe_router_pre_softmax")) is True
    if given or not pre_softmax:
        remark = "" if given else "experts without moe_router_pre_softmax"
        migration.set("norm_topk_prob", True, remark, "" if given else "their gates are normalised there")


def _set_vocabulary(migration: Migration) -> None:
    """Set the rows of the embedding, which MindSpeed takes from the tokenizer where a script does not give them."""
    settings = migration.settings
    if migration.shipped_model or settings.get("vocab_size") or settings.get("padded_vocab_size"):
        return
    model = model_of_size(settings)
    if model is None:
        migration.to_do.append("vocab_size: it is not given; set it to the number of token ids of the tokenizer")
        return
    name, rows = model
    migration.set(
        "vocab_size", rows, "vocab_size, not given", f"that of configs/model/{name}.yaml, which has this size"
    )


def _drop_evaluation_without_rows(migration: Migration) -> None:
    """Leave out an evaluation that has no rows: MindSpeed skips it, here it is an error."""
    settings = migration.settings
    shares = split_shares(str(settings.get("split", "100,0,0")))
    if shares is None or shares[1] or parse_plain(settings.get("eval_iters")) == 0:
        return
    for key in ("eval_interval", "eval_iters"):
        if key in settings:
            migration.leave_out(f"{key}={settings.pop(key)}", "split has no rows for evaluation, for example 98,2,0")

"""The command line of `convert_ckpt.py` as a request; unknown and contradictory flags are errors."""

from __future__ import annotations

import argparse
import difflib
import logging
from collections.abc import Sequence

from mindspeed_dpo.config.settings.lora import LORA_TARGETS, AdapterConfig
from mindspeed_dpo.weights.conversion.cli_flags import NO_EFFECT, REJECTED, UsageError, build_parser, families_by_name
from mindspeed_dpo.weights.conversion.conversion_request import ConversionRequest
from mindspeed_dpo.weights.dtype_cast import DTYPES
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.families import FAMILIES
from mindspeed_dpo.weights.families.unsupported import UNSUPPORTED_CONVERTER_NAMES
from mindspeed_dpo.weights.layer_placement import ParallelLayout
from mindspeed_dpo.weights.legacy.expert_storage import DEFAULT_STORAGE, ExpertDivision, ExpertForm, ExpertStorage

logger = logging.getLogger(__name__)


def parse(arguments: Sequence[str]) -> ConversionRequest:
    """Parse a command line; flags without effect are logged.

    Raises:
        UsageError: A flag is unknown, rejected, or contradicts another.
    """
    parser = build_parser()
    # First: a misspelt flag would otherwise be reported as one that is missing.
    _reject_unknown(parser, [word for word in arguments if word.startswith("--") and word != "--"])
    flags, others = parser.parse_known_args(arguments)
    if others:
        raise UsageError(f"unknown argument {others[0]}")
    _reject_unsupported(flags)
    for name, (_, reason) in NO_EFFECT.items():
        if _is_given(flags, name) and name != "--tokenizer-model":
            logger.warning("%s has no effect: %s", name, reason)
    return ConversionRequest(
        load_dir=flags.load_dir,
        save_dir=flags.save_dir,
        save_format=flags.save_model_type,
        load_format=flags.load_model_type,
        layout=_layout(flags),
        storage=_storage(flags),
        reads_extended=True if flags.moe_tp_extend_ep and flags.save_model_type == "hf" else None,
        first_k_dense=flags.first_k_dense_replace,
        dtype=DTYPES[flags.params_dtype] if flags.params_dtype else None,
        families=_expected_families(flags),
        hf_config_dir=flags.hf_cfg_dir,
        reward_model=flags.orm,
        vocab_size=flags.true_vocab_size,
        vocab_multiple=flags.make_vocab_size_divisible_by,
        num_layers=flags.num_layers,
        adapter_dir=flags.lora_load,
        adapter_only=flags.save_lora_to_hf,
        expected_adapter=_expected_adapter(flags),
        loosely=flags.load_checkpoint_loosely,
        drop_mtp_layers=flags.drop_mtp_layers,
        overwrite=flags.overwrite,
    )


def _layout(flags: argparse.Namespace) -> ParallelLayout:
    try:
        return ParallelLayout(
            tp=flags.target_tensor_parallel_size,
            pp=flags.target_pipeline_parallel_size,
            layers_per_virtual_stage=flags.num_layers_per_virtual_pipeline_stage,
            num_layer_list=flags.num_layer_list,
            noop_layers=flags.noop_layers,
            ep=flags.target_expert_parallel_size,
        )
    except WeightsError as error:
        raise UsageError(str(error)) from error


def _storage(flags: argparse.Namespace) -> ExpertStorage:
    """The storage of experts in the rank files to write; what is read is detected."""
    if flags.save_model_type == "hf":
        return DEFAULT_STORAGE
    form = ExpertForm.PER_EXPERT
    if flags.moe_grouped_gemm:
        form = ExpertForm.NUMBERED if flags.transformer_impl == "transformer_engine" else ExpertForm.GROUPED
    size, tp = flags.expert_tensor_parallel_size, flags.target_tensor_parallel_size
    if size not in (None, 1, tp):
        raise UsageError(f"--expert-tensor-parallel-size {size}: give 1, or the tensor-parallel size {tp}")
    if not flags.moe_tp_extend_ep:
        return ExpertStorage(form, ExpertDivision.UNSLICED if size == 1 and tp > 1 else ExpertDivision.SLICED)
    if form is ExpertForm.PER_EXPERT:
        raise UsageError("--moe-tp-extend-ep needs --moe-grouped-gemm, as in MindSpeed-LLM")
    if size not in (None, 1):
        raise UsageError(f"--moe-tp-extend-ep keeps experts whole; omit --expert-tensor-parallel-size {size}")
    return ExpertStorage(form, ExpertDivision.EXTENDED if tp > 1 else ExpertDivision.SLICED)


def _expected_adapter(flags: argparse.Namespace) -> dict[str, object]:
    """The settings of adapters that the flags give, by key."""
    unknown = [name for name in flags.lora_target_modules or () if name not in LORA_TARGETS]
    if unknown:
        raise UsageError(f"--lora-target-modules: {unknown[0]} is not supported; supported: {', '.join(LORA_TARGETS)}")
    if flags.save_lora_to_hf and flags.save_model_type != "hf":
        raise UsageError("--save-lora-to-hf writes a PEFT folder; give --save-model-type hf")
    modules = AdapterConfig(lora_target_modules=tuple(flags.lora_target_modules or ())).modules
    values = {"lora_r": flags.lora_r, "lora_alpha": flags.lora_alpha, "modules": modules or None}
    return {key: value for key, value in values.items() if value is not None}


def _reject_unknown(parser: argparse.ArgumentParser, given: Sequence[str]) -> None:
    flags = [name for action in parser._actions for name in action.option_strings]
    unknown = [word for word in given if word.split("=")[0] not in flags]
    if unknown:
        raise UsageError(f"unknown flag {unknown[0]}{_did_you_mean(unknown[0].split('=')[0], flags)}")


def _reject_unsupported(flags: argparse.Namespace) -> None:
    for name, (_, reason) in REJECTED.items():
        if _is_given(flags, name):
            raise UsageError(f"{name}: {reason}")
    unsupported = {
        f"--model-type {flags.model_type}: only GPT is supported": flags.model_type != "GPT",
        "--load-model-type optim: optimizer states cannot be converted": flags.load_model_type == "optim",
        f"--ckpt-format {flags.ckpt_format}: only torch is supported": flags.ckpt_format != "torch",
        "--mtp-num-layers: MTP layers are not supported; --drop-mtp-layers leaves them out": flags.mtp_num_layers != 0,
    }
    for message, is_given in unsupported.items():
        if is_given:
            raise UsageError(message)


def _expected_families(flags: argparse.Namespace) -> frozenset[str] | None:
    """The families that the flags allow, or None for any."""
    name, families = flags.model_type_hf, families_by_name()
    if name is not None and name not in families:
        missing = UNSUPPORTED_CONVERTER_NAMES.get(name)
        hint = _did_you_mean(name, families) if missing is None else f"; missing: {missing}"
        raise UsageError(f"--model-type-hf {name} is not supported; supported: {', '.join(families)}{hint}")
    named = families.get(name)
    if not flags.add_qkv_bias:
        return named
    with_bias = frozenset(family.name for family in FAMILIES if family.add_qkv_bias)
    allowed = with_bias if named is None else with_bias & named
    if not allowed:
        raise UsageError(f"--add-qkv-bias contradicts --model-type-hf {name}, which has no such biases")
    return allowed


def _did_you_mean(word: str, candidates: Sequence[str] | dict[str, frozenset[str]]) -> str:
    nearest = difflib.get_close_matches(word, candidates, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _is_given(flags: argparse.Namespace, name: str) -> bool:
    return getattr(flags, name.removeprefix("--").replace("-", "_")) not in (None, False)

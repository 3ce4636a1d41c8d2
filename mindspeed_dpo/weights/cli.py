"""The command line of `convert_ckpt.py`, with the flags of MindSpeed-LLM's converter.

Each of its flags is either used, reported to have no effect, or rejected with the reason. Unknown flags are errors.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mindspeed_dpo.config.settings.lora import LORA_TARGETS, AdapterConfig
from mindspeed_dpo.weights.convert import ConversionRequest
from mindspeed_dpo.weights.dtype_cast import DTYPES
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.families import FAMILIES
from mindspeed_dpo.weights.layer_placement import ParallelLayout

logger = logging.getLogger(__name__)

_DENSE = "only dense models are supported in rank files"
_NOT_YET = ("deepseek2", "deepseek2-lite", "deepseek3")

NO_EFFECT: dict[str, tuple[int | str, str]] = {
    "--load-hf-from-config": (0, "no model is built"),
    "--spec": (2, "the layers follow from the model"),
    "--ckpt-cfg-path": (1, "the rules are built in"),
    "--loader": (1, "there are no plug-ins"),
    "--saver": (1, "there are no plug-ins"),
    "--megatron-path": (1, "Megatron is not needed"),
    "--max-queue-size": (1, "tensors are streamed"),
    "--no-checking": (0, "checks are always on"),
    "--tokenizer-model": (1, "the tokenizer files of the Hugging Face folder are copied"),
    "--vocab-file": (1, "the vocabulary size comes from config.json or --true-vocab-size"),
    "--moe-grouped-gemm": (0, "the model has no experts"),
    "--moe-tp-extend-ep": (0, "the model has no experts"),
    "--first-k-dense-replace": (1, "the model has no experts"),
    "--expert-tensor-parallel-size": (1, "the model has no experts"),
    "--trust-remote-code": (0, "code in a model folder is never run"),
    "--transformer-impl": (1, "norms are read under either name and written under the plain one"),
    "--save-layer-by-layer": (0, "tensors are streamed"),
}
"""Flag: number of values, and why it has no effect.

There is no warning for `--tokenizer-model`, which MindSpeed-LLM's guides give in every call.
"""

REJECTED: dict[str, tuple[int | str, str]] = {
    "--add-dense-bias": (0, "no supported family has biases in its dense layers"),
    "--load-from-legacy": (0, "only checkpoints of megatron-core models are supported"),
    "--save-to-legacy": (0, "only checkpoints of megatron-core models are supported"),
    "--post-norm": (0, "no supported family has norms after its layers"),
    "--embed-layernorm": (0, "no supported family has a norm on the embedding"),
    "--add-output-layer-bias": (0, "no supported family has a bias in the output layer"),
    "--w-pack": ("?", "packed query, key and value weights of Hugging Face models are not supported"),
    "--qlora-nf4": (0, "4-bit weights are not supported"),
    "--mla-mm-split": (0, "models with multi-latent attention are not supported"),
    "--schedules-method": (1, "the layer order of dualpipev is not supported"),
}
"""Flag: number of values, and the reason it is rejected."""


class UsageError(ValueError):
    """The command line is invalid; the message names the flag and the reason."""


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; `--help` lists the flags that have an effect."""
    parser = _Parser(
        prog="convert_ckpt.py",
        description="Convert weights between Hugging Face folders and Megatron-core checkpoints.",
        allow_abbrev=False,
    )
    _add_input_and_output(parser)
    _add_layout(parser)
    _add_checks(parser)
    _add_adapters(parser)
    _add_compatibility(parser)
    for name, (num_values, _) in {**NO_EFFECT, **REJECTED}.items():
        _add_hidden(parser, name, num_values)
    return parser


def _add_input_and_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("input and output").add_argument
    add("--load-dir", type=_path, metavar="DIR", required=True, help="folder with the weights to read")
    add("--save-dir", type=_path, metavar="DIR", required=True, help="folder to write")
    add("--save-model-type", choices=("hf", "mg"), default="mg", help="format of the result (default: mg)")
    add(
        "--hf-cfg-dir",
        type=_path,
        metavar="DIR",
        help="folder with config.json and tokenizer, for input without them",
    )
    add("--params-dtype", choices=tuple(DTYPES), help="data type to cast to (default: that of each tensor)")
    add("--true-vocab-size", type=int, metavar="N", help="vocabulary size without padding, if the input lacks it")
    add("--orm", action="store_true", help="convert a reward model, which has a scalar score head")
    add("--load-checkpoint-loosely", action="store_true", help="tolerate missing and unknown tensors, and list them")
    add("--overwrite", action="store_true", help="replace the content of --save-dir")


def _add_layout(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("layout of the result").add_argument
    add("--target-tensor-parallel-size", type=int, metavar="N", default=1, help="tensor-parallel size (default: 1)")
    add("--target-pipeline-parallel-size", type=int, metavar="N", default=1, help="pipeline-parallel size (default: 1)")
    add(
        "--target-expert-parallel-size", "--target-expert-model-parallel-size", type=int, metavar="N", default=1,
        help=f"expert-parallel size; must be 1: {_DENSE}",
    )  # fmt: skip
    add("--num-layers-per-virtual-pipeline-stage", type=int, metavar="N", help="layers of each virtual pipeline stage")
    add("--num-layer-list", type=_parse_numbers, metavar="LIST", help='layers of each stage, for example "4,4,6"')
    add(
        "--noop-layers", type=_parse_numbers, metavar="LIST", default=(),
        help='indices of layers without weights, for example "1,3"',
    )  # fmt: skip
    add(
        "--make-vocab-size-divisible-by", type=int, metavar="N",
        help="pad the vocabulary to a multiple of this times the tensor-parallel size (default: 1)",
    )  # fmt: skip


def _add_checks(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("expected properties of the input; a difference is an error").add_argument
    add("--load-model-type", choices=("hf", "mg", "optim"), help="format (default: any)")
    add("--model-type-hf", metavar="FAMILY", help=f"family: {', '.join(_families_by_name())} (default: any)")
    add("--num-layers", type=int, metavar="N", help="number of layers, including no-op layers")
    add("--add-qkv-bias", action="store_true", help="biases on query, key and value")


def _add_adapters(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("LoRA adapters").add_argument
    add(
        "--lora-load",
        type=_path,
        metavar="DIR",
        help="adapters to merge: a PEFT folder or a checkpoint of adapters",
    )
    add("--save-lora-to-hf", action="store_true", help="write only the adapters, for PEFT, instead of merging them")
    add("--lora-r", type=int, metavar="N", help="expected rank (default: any)")
    add("--lora-alpha", type=float, metavar="X", help="expected alpha (default: any)")
    add("--lora-target-modules", nargs="+", metavar="NAME", help="expected matrices with adapters (default: any)")


def _add_compatibility(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("accepted for compatibility").add_argument
    add("--model-type", metavar="TYPE", default="GPT", help="only GPT is supported")
    add("--use-mcore-models", action="store_true", help="always on")
    add("--ckpt-format", metavar="FORMAT", default="torch", help="only torch is supported")
    add("--mtp-num-layers", type=int, metavar="N", default=0, help="multi-token prediction layers; must be 0")


def parse(arguments: Sequence[str]) -> ConversionRequest:
    """Parse a command line; flags without effect are logged.

    Raises:
        UsageError: A flag is unknown, rejected, or contradicts another.
    """
    parser = build_parser()
    flags, unknown = parser.parse_known_args(arguments)
    _reject_unknown(parser, unknown)
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
        )
    except WeightsError as error:
        raise UsageError(str(error)) from error


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


def _add_hidden(parser: argparse.ArgumentParser, name: str, num_values: int | str) -> None:
    """Add a flag that `--help` does not list."""
    if num_values == 0:
        parser.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    elif num_values == "?":
        parser.add_argument(name, nargs=num_values, const=True, help=argparse.SUPPRESS)
    else:
        parser.add_argument(name, nargs=num_values, help=argparse.SUPPRESS)


def _reject_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> None:
    if unknown:
        flags = [name for action in parser._actions for name in action.option_strings]
        raise UsageError(f"unknown flag {unknown[0]}{_did_you_mean(unknown[0].split('=')[0], flags)}")


def _reject_unsupported(flags: argparse.Namespace) -> None:
    for name, (_, reason) in REJECTED.items():
        if _is_given(flags, name):
            raise UsageError(f"{name}: {reason}")
    unsupported = {
        f"--model-type {flags.model_type}: only GPT is supported": flags.model_type != "GPT",
        "--load-model-type optim: optimizer states cannot be converted": flags.load_model_type == "optim",
        f"--target-expert-parallel-size: {_DENSE}; omit the flag or give 1": flags.target_expert_parallel_size != 1,
        f"--ckpt-format {flags.ckpt_format}: only torch is supported": flags.ckpt_format != "torch",
        "--mtp-num-layers: multi-token prediction layers are not supported": flags.mtp_num_layers != 0,
    }
    for message, is_given in unsupported.items():
        if is_given:
            raise UsageError(message)


def _families_by_name() -> dict[str, frozenset[str]]:
    """The families that each value of `--model-type-hf` stands for."""
    names = dict.fromkeys(name for family in FAMILIES for name in family.converter_names)
    return {name: frozenset(f.name for f in FAMILIES if name in f.converter_names) for name in names}


def _expected_families(flags: argparse.Namespace) -> frozenset[str] | None:
    """The families that the flags allow, or None for any."""
    name, families_by_name = flags.model_type_hf, _families_by_name()
    if name is not None and name not in families_by_name:
        yet, hint = (" yet", "") if name in _NOT_YET else ("", _did_you_mean(name, families_by_name))
        raise UsageError(
            f"--model-type-hf {name} is not supported{yet}; supported: {', '.join(families_by_name)}{hint}"
        )
    families = families_by_name.get(name)
    if not flags.add_qkv_bias:
        return families
    with_bias = frozenset(family.name for family in FAMILIES if family.add_qkv_bias)
    allowed = with_bias if families is None else with_bias & families
    if not allowed:
        raise UsageError(f"--add-qkv-bias contradicts --model-type-hf {name}, which has no such biases")
    return allowed


def _did_you_mean(word: str, candidates: Sequence[str] | dict[str, frozenset[str]]) -> str:
    nearest = difflib.get_close_matches(word, candidates, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _is_given(flags: argparse.Namespace, name: str) -> bool:
    return getattr(flags, name.removeprefix("--").replace("-", "_")) not in (None, False)


def _path(text: str) -> Path:
    """Parse a path; `~` is the home folder also where the shell does not replace it, as in `--load-dir=~/model`."""
    return Path(os.path.expanduser(text))


def _parse_numbers(text: str) -> tuple[int, ...]:
    """Parse numbers separated by commas, such as "4,4,6"."""
    try:
        return tuple(int(item) for item in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected numbers separated by commas, got {text!r}") from error

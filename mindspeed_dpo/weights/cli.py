"""The flags of `convert_ckpt.py`, those of MindSpeed-LLM's converter, and what becomes of each.

A flag is used, or reported to have no effect, or refused with a sentence. An unknown one is an error.
"""

from __future__ import annotations

import argparse
import difflib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mindspeed_dpo.config.settings.lora import LORA_TARGETS, AdapterConfig
from mindspeed_dpo.weights.convert import Request
from mindspeed_dpo.weights.dtype_cast import DTYPES
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.placement import Layout

logger = logging.getLogger(__name__)

_DENSE = "weights of dense models only so far"

FAMILIES: dict[str, frozenset[str]] = {
    "llama": frozenset({"llama"}),
    "llama2": frozenset({"llama", "qwen2"}),
    "llama3": frozenset({"llama"}),
    "mistral": frozenset({"llama"}),
    "qwen2": frozenset({"qwen2"}),
    "qwen25": frozenset({"qwen2"}),
    "qwen3": frozenset({"qwen3"}),
}
"""What `--model-type-hf` may say, and the families it stands for; MindSpeed-LLM calls Qwen2 with biases llama2."""

_NOT_YET = ("mixtral", "qwen2-moe", "qwen3-moe", "deepseek2", "deepseek2-lite", "deepseek3")

NO_EFFECT: dict[str, tuple[int | str, str]] = {
    "--load-hf-from-config": (0, "no model is built"),
    "--spec": (2, "the layers follow from the model"),
    "--ckpt-cfg-path": (1, "the rules are built in"),
    "--loader": (1, "there are no plug-ins"),
    "--saver": (1, "there are no plug-ins"),
    "--megatron-path": (1, "Megatron is not needed"),
    "--max-queue-size": (1, "tensors are streamed"),
    "--no-checking": (0, "checks are always on"),
    "--tokenizer-model": (1, "the tokenizer files of the Hugging Face folder are carried along"),
    "--vocab-file": (1, "the vocabulary size comes from config.json or --true-vocab-size"),
    "--moe-grouped-gemm": (0, "the model has no experts"),
    "--moe-tp-extend-ep": (0, "the model has no experts"),
    "--first-k-dense-replace": (1, "the model has no experts"),
    "--expert-tensor-parallel-size": (1, "the model has no experts"),
    "--trust-remote-code": (0, "code of a model folder is never run"),
    "--transformer-impl": (1, "both spellings of the norms are read, the plain one is written"),
    "--save-layer-by-layer": (0, "tensors are streamed"),
}
"""Flag → number of values, and why it has no effect. `--tokenizer-model` was required once, so it goes unmentioned."""

REFUSED: dict[str, tuple[int | str, str]] = {
    "--add-dense-bias": (0, "no supported family has biases on dense layers"),
    "--load-from-legacy": (0, "only checkpoints of megatron-core models are supported"),
    "--save-to-legacy": (0, "only checkpoints of megatron-core models are supported"),
    "--post-norm": (0, "no supported family has norms after its layers"),
    "--embed-layernorm": (0, "no supported family has a norm on the embedding"),
    "--add-output-layer-bias": (0, "no supported family has a bias on the output layer"),
    "--w-pack": ("?", "packed query, key and value weights of Hugging Face models are not supported"),
    "--qlora-nf4": (0, "4-bit weights are not supported"),
    "--mla-mm-split": (0, "models with multi-latent attention are not supported"),
    "--schedules-method": (1, "the layer order of dualpipev is not supported"),
}
"""Flag → number of values, and the sentence it is refused with."""


class UsageError(ValueError):
    """The command line is wrong; the sentence says which flag and why."""


class _Parser(argparse.ArgumentParser):
    """An argument parser that raises instead of printing its long usage and leaving."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def build_parser() -> argparse.ArgumentParser:
    """The parser; `--help` lists the flags that do something."""
    parser = _Parser(
        prog="convert_ckpt.py",
        description="Convert weights between Hugging Face folders and Megatron-core checkpoints.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--load-dir", type=Path, required=True, help="weights to read")
    add("--save-dir", type=Path, required=True, help="folder to write")
    add("--load-model-type", choices=("hf", "mg", "optim"), help="form of the source (default: whatever is there)")
    add("--save-model-type", choices=("hf", "mg"), default="mg", help="form of the result (default: mg)")
    add("--model-type", default="GPT", help="GPT")
    add("--model-type-hf", help=f"family to expect: {', '.join(FAMILIES)} (default: as config.json says)")
    add("--hf-cfg-dir", type=Path, help="folder with config.json and tokenizer, where the checkpoint carries none")
    add("--params-dtype", choices=tuple(DTYPES), help="type to cast to (default: each tensor's own)")
    add("--target-tensor-parallel-size", type=int, default=1, help="tensor-parallel size of the result")
    add("--target-pipeline-parallel-size", type=int, default=1, help="pipeline-parallel size of the result")
    add("--target-expert-parallel-size", "--target-expert-model-parallel-size", type=int, default=1, help=_DENSE)
    add("--num-layers-per-virtual-pipeline-stage", type=int, help="layers of one virtual chunk")
    add("--num-layer-list", type=_numbers, help='layers of each stage, such as "4,4,6"')
    add("--noop-layers", type=_numbers, default=(), help='empty places among the layers, such as "1,3"')
    add("--num-layers", type=int, help="number of layers to expect, noops counted")
    add("--true-vocab-size", type=int, help="vocabulary without padding, where the source does not tell")
    add("--make-vocab-size-divisible-by", type=int, help="pad the vocabulary to a multiple of this x TP (default 1)")
    add("--add-qkv-bias", action="store_true", help="expect biases on query, key and value")
    add("--orm", action="store_true", help="a reward model: a head of one score instead of the vocabulary's")
    add("--lora-load", type=Path, help="adapters to merge: a folder of PEFT, or a training checkpoint that holds some")
    add("--save-lora-to-hf", action="store_true", help="write the adapters alone, for PEFT, instead of merging them")
    add("--lora-r", type=int, help="rank to expect of the adapters (default: as they say)")
    add("--lora-alpha", type=float, help="strength to expect (default: as they say)")
    add("--lora-target-modules", nargs="+", help="matrices to expect (default: as they say)")
    add("--load-checkpoint-loosely", action="store_true", help="tolerate missing and unknown tensors, and list them")
    add("--overwrite", action="store_true", help="replace what --save-dir holds")
    add("--use-mcore-models", action="store_true", help="always on")
    add("--ckpt-format", default="torch", help="torch")
    add("--mtp-num-layers", type=int, default=0, help="0")
    for name, (values, _) in {**NO_EFFECT, **REFUSED}.items():
        _add_silent(parser, name, values)
    return parser


def parse(arguments: Sequence[str]) -> Request:
    """Turn a command line into a request; flags without effect are logged.

    Raises:
        UsageError: A flag is unknown, refused, or contradicts another.
    """
    parser = build_parser()
    flags, unknown = parser.parse_known_args(arguments)
    _refuse_unknown(parser, unknown)
    _refuse_unsupported(flags)
    for name, (_, reason) in NO_EFFECT.items():
        if _given(flags, name) and name != "--tokenizer-model":
            logger.warning("%s has no effect: %s", name, reason)
    try:
        layout = Layout(
            tp=flags.target_tensor_parallel_size,
            pp=flags.target_pipeline_parallel_size,
            layers_per_virtual_stage=flags.num_layers_per_virtual_pipeline_stage,
            num_layer_list=flags.num_layer_list,
            noop_layers=flags.noop_layers,
        )
    except WeightsError as error:
        raise UsageError(str(error)) from error
    return Request(
        load_dir=flags.load_dir,
        save_dir=flags.save_dir,
        save_as=flags.save_model_type,
        load_as=flags.load_model_type,
        layout=layout,
        dtype=DTYPES[flags.params_dtype] if flags.params_dtype else None,
        families=_families(flags),
        hf_config_dir=flags.hf_cfg_dir,
        reward_model=flags.orm,
        vocab_size=flags.true_vocab_size,
        vocab_multiple=flags.make_vocab_size_divisible_by,
        num_layers=flags.num_layers,
        adapter_dir=flags.lora_load,
        adapter_only=flags.save_lora_to_hf,
        adapter_wishes=_adapter_wishes(flags),
        loosely=flags.load_checkpoint_loosely,
        overwrite=flags.overwrite,
    )


def _adapter_wishes(flags: argparse.Namespace) -> dict[str, object]:
    """What the flags say about adapters, by setting."""
    unknown = [name for name in flags.lora_target_modules or () if name not in LORA_TARGETS]
    if unknown:
        raise UsageError(f"--lora-target-modules: {unknown[0]} has no adapter; choose among {', '.join(LORA_TARGETS)}")
    if flags.save_lora_to_hf and flags.save_model_type != "hf":
        raise UsageError("--save-lora-to-hf writes for Hugging Face's PEFT; give --save-model-type hf")
    modules = AdapterConfig(lora_target_modules=tuple(flags.lora_target_modules or ())).modules
    wishes = {"lora_r": flags.lora_r, "lora_alpha": flags.lora_alpha, "modules": modules or None}
    return {key: wish for key, wish in wishes.items() if wish is not None}


def _add_silent(parser: argparse.ArgumentParser, name: str, values: int | str) -> None:
    """A flag that `--help` leaves out."""
    if values == 0:
        parser.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    elif values == "?":
        parser.add_argument(name, nargs=values, const=True, help=argparse.SUPPRESS)
    else:
        parser.add_argument(name, nargs=values, help=argparse.SUPPRESS)


def _refuse_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> None:
    if not unknown:
        return
    known = [name for action in parser._actions for name in action.option_strings]
    near = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
    raise UsageError(f"{unknown[0]} is not a known flag" + (f"; did you mean {near[0]}?" if near else ""))


def _refuse_unsupported(flags: argparse.Namespace) -> None:
    for name, (_, reason) in REFUSED.items():
        if _given(flags, name):
            raise UsageError(f"{name}: {reason}")
    checks = {
        f"--model-type {flags.model_type}: only GPT is supported": flags.model_type != "GPT",
        "--load-model-type optim: optimizer states cannot be converted": flags.load_model_type == "optim",
        f"--target-expert-parallel-size: {_DENSE}; leave it at 1": flags.target_expert_parallel_size != 1,
        f"--ckpt-format {flags.ckpt_format}: only torch is written": flags.ckpt_format != "torch",
        "--mtp-num-layers: layers that predict several tokens are not supported": flags.mtp_num_layers != 0,
    }
    for sentence, refused in checks.items():
        if refused:
            raise UsageError(sentence)


def _families(flags: argparse.Namespace) -> frozenset[str] | None:
    """The families the flags allow, or None for any."""
    name = flags.model_type_hf
    if name in _NOT_YET:
        raise UsageError(f"--model-type-hf {name} is not supported yet; supported: {', '.join(FAMILIES)}")
    if name is not None and name not in FAMILIES:
        near = difflib.get_close_matches(name, FAMILIES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"--model-type-hf {name} is not supported; supported: {', '.join(FAMILIES)}{hint}")
    families = FAMILIES.get(name)
    if not flags.add_qkv_bias:
        return families
    biased = frozenset({"qwen2"}) & (families or frozenset({"qwen2"}))
    if not biased:
        raise UsageError(f"--add-qkv-bias contradicts --model-type-hf {name}, which has no such biases")
    return biased


def _given(flags: argparse.Namespace, name: str) -> bool:
    return getattr(flags, name.removeprefix("--").replace("-", "_")) not in (None, False)


def _numbers(text: str) -> tuple[int, ...]:
    """Parse "4,4,6"."""
    try:
        return tuple(int(item) for item in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected numbers separated by commas, got {text!r}") from error

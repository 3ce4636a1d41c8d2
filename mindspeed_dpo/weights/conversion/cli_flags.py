"""The flags of `convert_ckpt.py`: those of MindSpeed-LLM's converter, and what each is good for.

Each of its flags is either used, reported to have no effect, or rejected with the reason. Making a request of a command
line is left to `cli`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from mindspeed_dpo.storage.user_paths import expanded_path
from mindspeed_dpo.weights.dtype_cast import DTYPES
from mindspeed_dpo.weights.families import FAMILIES

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
    "--trust-remote-code": (0, "code in a model folder is never run"),
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
    add(
        "--load-checkpoint-loosely",
        action="store_true",
        help="tolerate missing tensors (no experts) and unknown ones",
    )
    add(
        "--drop-mtp-layers",
        action="store_true",
        help="leave out layers that predict further tokens (MTP), as those of GLM-4.5",
    )
    add("--overwrite", action="store_true", help="replace the content of --save-dir")


def _add_layout(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("layout of the result").add_argument
    add("--target-tensor-parallel-size", type=int, metavar="N", default=1, help="tensor-parallel size (default: 1)")
    add("--target-pipeline-parallel-size", type=int, metavar="N", default=1, help="pipeline-parallel size (default: 1)")
    add(
        "--target-expert-parallel-size", "--target-expert-model-parallel-size", type=int, metavar="N", default=1,
        help="expert-parallel size (default: 1)",
    )  # fmt: skip
    add(
        "--expert-tensor-parallel-size", type=int, metavar="N",
        help="1: experts whole on a rank; the tensor-parallel size: a slice on each rank (default)",
    )  # fmt: skip
    add("--moe-grouped-gemm", action="store_true", help="all experts of a rank in two tensors, weight1 and weight2")
    add("--moe-tp-extend-ep", action="store_true", help="whole experts, divided among tensor-parallel ranks too")
    add(
        "--transformer-impl", choices=("local", "transformer_engine"), default="local",
        help="transformer_engine with --moe-grouped-gemm: a numbered tensor of each expert, linear_fc1.weightN",
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
    add("--model-type-hf", metavar="FAMILY", help=f"family: {', '.join(families_by_name())} (default: any)")
    add("--num-layers", type=int, metavar="N", help="number of layers, including no-op layers")
    add("--first-k-dense-replace", type=int, metavar="N", help="number of first layers without experts")
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


def _add_hidden(parser: argparse.ArgumentParser, name: str, num_values: int | str) -> None:
    """Add a flag that `--help` does not list."""
    if num_values == 0:
        parser.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    elif num_values == "?":
        parser.add_argument(name, nargs=num_values, const=True, help=argparse.SUPPRESS)
    else:
        parser.add_argument(name, nargs=num_values, help=argparse.SUPPRESS)


def families_by_name() -> dict[str, frozenset[str]]:
    """The families that each value of `--model-type-hf` stands for."""
    names = dict.fromkeys(name for family in FAMILIES for name in family.converter_names)
    return {name: frozenset(f.name for f in FAMILIES if name in f.converter_names) for name in names}


def _path(text: str) -> Path:
    """Parse a path; `~` is the home folder also where the shell does not replace it, as in `--load-dir=~/model`."""
    return expanded_path(text)


def _parse_numbers(text: str) -> tuple[int, ...]:
    """Parse numbers separated by commas, such as "4,4,6"."""
    try:
        return tuple(int(item) for item in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected numbers separated by commas, got {text!r}") from error

"""The three conversions: Hugging Face to Megatron, Megatron to Hugging Face, Megatron to another layout.

What the command line's flags mean is told in `flags`; how tensors change form in `kinds`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.assets import tokenizer_size
from mindspeed_dpo.weights.atomic_write import check_target
from mindspeed_dpo.weights.base import WeightSource
from mindspeed_dpo.weights.dtype_cast import Tally, cast
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.hf_config import describe_differences, family_of, model_config_from_hf, read_hf_config
from mindspeed_dpo.weights.hf_source import HfSource
from mindspeed_dpo.weights.hf_writer import write_hf
from mindspeed_dpo.weights.legacy_writer import write_legacy
from mindspeed_dpo.weights.lora import AdapterSource, MergedSource, SavedAdapter, write_peft
from mindspeed_dpo.weights.placement import Layout
from mindspeed_dpo.weights.source import open_adapter, open_weights

logger = logging.getLogger(__name__)

Form = Literal["hf", "mg"]
LEGACY_SUBFOLDER = "mg2hf"


@dataclass(frozen=True)
class Request:
    """One conversion.

    Attributes:
        load_dir: Weights to read.
        save_dir: Folder to write. For Hugging Face output, an existing Hugging Face folder gets a subfolder.
        save_as: Form to write.
        load_as: Form expected in `load_dir`, or None for whatever is there.
        layout: How Megatron files are to divide the model.
        dtype: Type to cast to, or None to keep each tensor's own.
        families: Families the caller expects, or None for any.
        reward_model: Whether the weights are those of a reward model; they must be as the caller says.
        hf_config_dir: Folder with config.json and tokenizer, where the weights do not carry them.
        vocab_size: True vocabulary, where the weights do not tell.
        vocab_multiple: The padded vocabulary divides by this times the tensor-parallel size.
        num_layers: Layers the caller expects, noops counted, or None for any.
        adapter_dir: Adapters to merge into `load_dir`, where that does not hold some itself.
        adapter_only: Write the adapters for PEFT, instead of merged weights.
        adapter_wishes: What the caller says about the adapters, by key; it must be so.
        loosely: Tolerate missing and unknown tensors, with a warning.
        overwrite: Replace what `save_dir` holds.
    """

    load_dir: Path
    save_dir: Path
    save_as: Form = "mg"
    load_as: Form | None = None
    layout: Layout = field(default_factory=Layout)
    dtype: torch.dtype | None = None
    families: frozenset[str] | None = None
    reward_model: bool = False
    hf_config_dir: Path | None = None
    vocab_size: int | None = None
    vocab_multiple: int | None = None
    num_layers: int | None = None
    adapter_dir: Path | None = None
    adapter_only: bool = False
    adapter_wishes: Mapping[str, object] = field(default_factory=dict)
    loosely: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Summary:
    """What a conversion wrote.

    Attributes:
        path: The folder.
        tally: Number, size and data types of the tensors.
    """

    path: Path
    tally: Tally


def convert(request: Request) -> Summary:
    """Convert weights as asked.

    Raises:
        FileNotFoundError: The source does not exist.
        HfConfigError: The model is not supported.
        WeightsError: Source, target and wishes do not fit each other; nothing is left half-written.
    """
    if request.adapter_only:
        summary = _to_peft(request)
    else:
        source = _source(request)
        summary = _to_hf(source, request) if request.save_as == "hf" else _to_mcore(source, request)
    tally = summary.tally
    types = ", ".join(f"{count} {name.removeprefix('torch.')}" for name, count in sorted(tally.dtypes.items()))
    logger.info("wrote %d tensors (%s), %s, to %s", tally.num_tensors, types, _size(tally.num_bytes), summary.path)
    return summary


def _source(request: Request) -> WeightSource:
    """The weights to convert, with adapters merged where there are some."""
    source = open_weights(request.load_dir)
    _check_form(source, request)
    if request.adapter_dir is not None:
        source = MergedSource(source, open_adapter(request.adapter_dir))
    if isinstance(source, MergedSource):
        _check_wishes(source.adapter, request)
        logger.info("merging the adapters of %s into the weights of %s", source.adapter.path, source.base.path)
    elif request.adapter_wishes:
        logger.warning("%s have no effect: there is no adapter", ", ".join(_flags(request.adapter_wishes)))
    source.loosely = request.loosely
    _check_head(source, request)
    return source


def _to_peft(request: Request) -> Summary:
    """Adapters alone; the weights beneath them need not be there."""
    check_target(request.save_dir, overwrite=request.overwrite)
    adapter = open_adapter(request.adapter_dir or request.load_dir)
    _check_wishes(adapter, request)
    base = adapter.base if isinstance(adapter, SavedAdapter) else request.load_dir if request.adapter_dir else None
    tensors = {name: cast(tensor, request.dtype, name) for name, tensor in adapter.tensors.items()}
    write_peft(tensors, adapter.settings, str(base) if base else None, request.save_dir)
    tally = Tally()
    for tensor in tensors.values():
        tally.add(tensor)
    return Summary(request.save_dir, tally)


def _check_wishes(adapter: AdapterSource, request: Request) -> None:
    found = adapter.settings
    told: dict[str, object] = {"lora_r": found.lora_r, "lora_alpha": found.lora_alpha, "modules": found.modules}
    for key, wish in request.adapter_wishes.items():
        if told[key] != wish:
            (flag,) = _flags([key])
            raise WeightsError(f"{flag} asks for {wish}, but {adapter.path} has {told[key]}; leave the flag out")


def _flags(wishes: Iterable[str]) -> list[str]:
    return ["--lora-target-modules" if key == "modules" else f"--{key.replace('_', '-')}" for key in wishes]


def _to_mcore(source: WeightSource, request: Request) -> Summary:
    target = request.save_dir
    check_target(target, overwrite=request.overwrite)
    if target.resolve() == request.load_dir.resolve():
        raise WeightsError(f"{target} is both source and target; give another --save-dir")
    assets = request.hf_config_dir or source.assets()
    model = _model(source, request, assets)
    layers = model.num_layers + len(request.layout.noop_layers)
    if request.num_layers not in (None, layers):
        raise WeightsError(f"--num-layers {request.num_layers} was asked for, but the model has {layers}")
    source.check_copies(model)
    return Summary(target, write_legacy(source, model, request.layout, target, request.dtype, assets))


def _to_hf(source: WeightSource, request: Request) -> Summary:
    if request.layout != Layout():
        raise WeightsError("a Hugging Face folder has no parallel layout; leave the target sizes and layer lists out")
    target, assets = request.save_dir, request.hf_config_dir or source.assets()
    if (target / "config.json").is_file():
        logger.info("%s is a Hugging Face folder and stays as it is; writing to %s in it", target, LEGACY_SUBFOLDER)
        assets = request.hf_config_dir or target
        target = target / LEGACY_SUBFOLDER
    if assets is None:
        raise WeightsError(f"{source.path} carries no Hugging Face config; give its folder with --hf-cfg-dir")
    check_target(target, overwrite=request.overwrite)
    if target.is_dir() and any(target.iterdir()) and not (target / "config.json").is_file():
        raise WeightsError(f"{target} holds other things than a model and is not replaced; give another --save-dir")
    if target.resolve() in (request.load_dir.resolve(), assets.resolve()):
        raise WeightsError(f"{target} is both source and target; give another --save-dir")
    model = _model(source, request, assets)
    source.check_copies(model)
    tensors = source.hf_tensors(model)
    return Summary(target, write_hf(tensors, assets, target, request.dtype, reward_model=request.reward_model))


def _check_form(source: WeightSource, request: Request) -> None:
    found: Form = "hf" if isinstance(source, HfSource) else "mg"
    if request.load_as not in (None, found):
        names = {"hf": "a Hugging Face folder", "mg": "a Megatron checkpoint"}
        raise WeightsError(f"{source.path} is {names[found]}; give --load-model-type {found} or another --load-dir")


def _check_head(source: WeightSource, request: Request) -> None:
    if source.is_reward_model and not request.reward_model:
        raise WeightsError(f"{source.path} holds a reward model; give --orm to convert it")
    if request.reward_model and not source.is_reward_model:
        raise WeightsError(
            f"{source.path} holds a language model, but --orm asks for a reward model (score.weight of a Hugging Face "
            "...ForSequenceClassification, or rm_head.weight of Megatron); leave --orm out, or give another --load-dir"
        )
    if source.is_reward_model and isinstance(source, HfSource) and request.save_as == "mg":
        logger.info("rm_head.bias is written as 0: a Hugging Face classifier has none")


def _model(source: WeightSource, request: Request, assets: Path | None) -> ModelConfig:
    """The architecture, from the Hugging Face config where there is one, else from the checkpoint."""
    if assets is None:
        model = source.model_config()
    else:
        model = model_config_from_hf(read_hf_config(assets))
        _warn_of_differences(source, model)
        _warn_of_tokenizer(assets, model)
    if request.families is not None and family_of(model) not in request.families:
        wanted = " or ".join(sorted(request.families))
        raise WeightsError(f"the model is of the family {family_of(model)}, but the flags ask for {wanted}")
    if request.vocab_size is not None and isinstance(source, HfSource) and request.vocab_size != model.vocab_size:
        raise WeightsError(
            f"--true-vocab-size {request.vocab_size} contradicts vocab_size={model.vocab_size} of config.json"
        )
    return dataclasses.replace(
        model,
        vocab_size=request.vocab_size or model.vocab_size,
        make_vocab_size_divisible_by=request.vocab_multiple or model.make_vocab_size_divisible_by,
        padded_vocab_size=None,
    )


def _warn_of_differences(source: WeightSource, model: ModelConfig) -> None:
    """Tell where a Megatron checkpoint's own description departs from the Hugging Face config."""
    if isinstance(source, HfSource):
        return
    try:
        stated = source.model_config()
    except WeightsError:
        # An old checkpoint may describe itself too poorly; the config is there to make up for it.
        return
    if stated.vocab_size > model.vocab_size:
        # Old checkpoints know the padded vocabulary only.
        stated = dataclasses.replace(stated, vocab_size=model.vocab_size)
    for sentence in describe_differences(stated, model, reward=source.is_reward_model):
        logger.warning("%s: %s", source.path, sentence.replace("the model section", "the checkpoint"))


def _warn_of_tokenizer(assets: Path, model: ModelConfig) -> None:
    size = tokenizer_size(assets)
    if size is not None and size > model.vocab_size:
        logger.warning("%s: the tokenizer knows %d ids, the model only %d", assets, size, model.vocab_size)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.2f} MB"

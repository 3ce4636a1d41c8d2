"""The conversions of `convert_ckpt.py`: Hugging Face to Megatron, Megatron to Hugging Face, Megatron to another layout.

Parsing the command line is left to `cli`, changing the form of single tensors to `tensor_layouts`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path

from mindspeed_dpo.config.estimates.parameter_counts import num_parameters
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.storage.user_paths import real_path
from mindspeed_dpo.weights.conversion.conversion_request import ConversionRequest, ConversionSummary, Format
from mindspeed_dpo.weights.conversion.written_experts import with_all_experts
from mindspeed_dpo.weights.dtype_cast import TensorCounts, cast_tensor
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.families import family_of
from mindspeed_dpo.weights.format_detection import open_adapter, open_weights
from mindspeed_dpo.weights.hf.hf_assets import asset_files, tokenizer_vocab_size
from mindspeed_dpo.weights.hf.hf_config import (
    describe_differences,
    read_model_config,
)
from mindspeed_dpo.weights.hf.hf_source import HfSource
from mindspeed_dpo.weights.hf.hf_writer import write_hf
from mindspeed_dpo.weights.layer_placement import ParallelLayout
from mindspeed_dpo.weights.legacy.expert_storage import DEFAULT_STORAGE
from mindspeed_dpo.weights.legacy.legacy_source import LegacySource
from mindspeed_dpo.weights.legacy.legacy_writer import RankLayout, write_legacy
from mindspeed_dpo.weights.lora import AdapterSource, CheckpointAdapter, MergedSource, write_peft
from mindspeed_dpo.weights.output_folder import check_target
from mindspeed_dpo.weights.weight_source import WeightSource

logger = logging.getLogger(__name__)

MG2HF_FOLDER = "mg2hf"


def convert(request: ConversionRequest) -> ConversionSummary:
    """Run one conversion.

    Raises:
        FileNotFoundError: The source does not exist.
        HfConfigError: The model is not supported.
        WeightsError: Source, target and request do not fit each other; no partial output is left behind.
    """
    if request.adapter_only:
        summary = _write_peft(request)
    else:
        source = _open_source(request)
        summary = _write_hf(source, request) if request.save_format == "hf" else _write_mcore(source, request)
    counts = summary.counts
    dtypes = ", ".join(f"{count} {name.removeprefix('torch.')}" for name, count in sorted(counts.dtypes.items()))
    size = _format_size(counts.num_bytes)
    logger.info("wrote %d tensors (%s), %s, to %s", counts.num_tensors, dtypes, size, summary.path)
    return summary


def _open_source(request: ConversionRequest) -> WeightSource:
    """Open the weights to convert, with adapters merged if there are any."""
    source = open_weights(request.load_dir)
    _check_format(source, request)
    if isinstance(source, LegacySource):
        source.extends_ep = request.reads_extended
    if request.adapter_dir is not None:
        source = MergedSource(source, open_adapter(request.adapter_dir))
    if isinstance(source, MergedSource):
        _check_adapter(source.adapter, request)
        logger.info("merging the adapters of %s into the weights of %s", source.adapter.path, source.base.path)
    elif request.expected_adapter:
        logger.warning("%s have no effect: there is no adapter", ", ".join(_flags(request.expected_adapter)))
    source.loosely, source.keeps_dtypes = request.loosely, request.dtype is None
    source.drop_mtp_layers = request.drop_mtp_layers
    _check_head(source, request)
    return source


def _write_peft(request: ConversionRequest) -> ConversionSummary:
    """Write adapters alone; their base weights need not exist."""
    check_target(request.save_dir, overwrite=request.overwrite)
    adapter = open_adapter(request.adapter_dir or request.load_dir)
    _check_adapter(adapter, request)
    base = adapter.base if isinstance(adapter, CheckpointAdapter) else request.load_dir if request.adapter_dir else None
    tensors = {name: cast_tensor(tensor, request.dtype, name) for name, tensor in adapter.tensors.items()}
    write_peft(tensors, adapter.settings, str(base) if base else None, request.save_dir)
    counts = TensorCounts()
    for tensor in tensors.values():
        counts.add(tensor)
    return ConversionSummary(request.save_dir, counts)


def _check_adapter(adapter: AdapterSource, request: ConversionRequest) -> None:
    """Check that the adapters have the settings that the flags give."""
    stored = adapter.settings
    values: dict[str, object] = {"lora_r": stored.lora_r, "lora_alpha": stored.lora_alpha, "modules": stored.modules}
    for key, expected in request.expected_adapter.items():
        if values[key] != expected:
            (flag,) = _flags([key])
            raise WeightsError(f"{flag} is {expected}, but {adapter.path} has {values[key]}; omit the flag")


def _flags(keys: Iterable[str]) -> list[str]:
    return ["--lora-target-modules" if key == "modules" else f"--{key.replace('_', '-')}" for key in keys]


def _write_mcore(source: WeightSource, request: ConversionRequest) -> ConversionSummary:
    target = request.save_dir
    check_target(target, overwrite=request.overwrite)
    if real_path(target) == real_path(request.load_dir):
        raise WeightsError(f"{target} is both source and target; give another --save-dir")
    assets = request.hf_config_dir or source.assets()
    model = _model_config(source, request, assets)
    _check_experts(model, request)
    num_layers = model.num_layers + len(request.layout.noop_layers)
    if request.num_layers not in (None, num_layers):
        raise WeightsError(f"--num-layers is {request.num_layers}, but the model has {num_layers}")
    source.check_tied_copies(model)
    ranks = RankLayout(request.layout, request.storage if model.has_experts else DEFAULT_STORAGE)
    return ConversionSummary(target, write_legacy(source, model, ranks, target, request.dtype, assets))


def _write_hf(source: WeightSource, request: ConversionRequest) -> ConversionSummary:
    if request.layout != ParallelLayout():
        raise WeightsError("a Hugging Face folder has no parallel layout; omit the target sizes and layer lists")
    target, assets = request.save_dir, request.hf_config_dir or source.assets()
    if (target / "config.json").is_file():
        logger.info("%s is a Hugging Face folder and is not changed; writing to its folder %s", target, MG2HF_FOLDER)
        assets = request.hf_config_dir or target
        target = target / MG2HF_FOLDER
    if assets is None:
        raise WeightsError(f"{source.path} comes without a Hugging Face config; give its folder with --hf-cfg-dir")
    check_target(target, overwrite=request.overwrite)
    if target.is_dir() and any(target.iterdir()) and not (target / "config.json").is_file():
        raise WeightsError(f"{target} holds files that are not a model and is not replaced; give another --save-dir")
    if real_path(target) in (real_path(request.load_dir), real_path(assets)):
        raise WeightsError(f"{target} is both source and target; give another --save-dir")
    model = _model_config(source, request, assets)
    source.check_tied_copies(model)
    tensors = with_all_experts(source.hf_tensors(model), model)
    counts = write_hf(
        *(tensors, assets, target, request.dtype),
        reward_model=request.reward_model,
        num_elements=num_parameters(model, scalar_head=request.reward_model),
    )
    return ConversionSummary(target, counts)


def _check_experts(model: ModelConfig, request: ConversionRequest) -> None:
    """Check the flags about experts against the model."""
    if not model.has_experts:
        if request.layout.ep > 1:
            raise WeightsError("the model has no experts; omit --target-expert-parallel-size")
        if request.storage != DEFAULT_STORAGE or request.first_k_dense is not None:
            logger.warning("the flags about experts have no effect: the model has none")
        return
    moe_layers = [layer for layer in range(model.num_layers) if model.is_moe_layer(layer)]
    first = moe_layers[0] if moe_layers else model.num_layers
    if request.first_k_dense not in (None, first):
        raise WeightsError(
            f"--first-k-dense-replace is {request.first_k_dense}, but {first} layers come before the first with experts"
        )


def _check_format(source: WeightSource, request: ConversionRequest) -> None:
    actual: Format = "hf" if isinstance(source, HfSource) else "mg"
    if request.load_format not in (None, actual):
        names = {"hf": "a Hugging Face folder", "mg": "a Megatron checkpoint"}
        raise WeightsError(f"{source.path} is {names[actual]}; give --load-model-type {actual} or another --load-dir")


def _check_head(source: WeightSource, request: ConversionRequest) -> None:
    if source.is_reward_model and not request.reward_model:
        raise WeightsError(f"{source.path} holds a reward model; give --orm to convert it")
    if request.reward_model and not source.is_reward_model:
        raise WeightsError(
            f"{source.path} holds a language model, but --orm expects a reward model (score.weight of a Hugging Face "
            "...ForSequenceClassification, or rm_head.weight of Megatron); omit --orm, or give another --load-dir"
        )
    if source.is_reward_model and isinstance(source, HfSource) and request.save_format == "mg":
        logger.info("rm_head.bias is written as 0, because Hugging Face classifiers have no bias")


def _model_config(source: WeightSource, request: ConversionRequest, assets: Path | None) -> ModelConfig:
    """The architecture, from the Hugging Face config if there is one, else from the checkpoint."""
    if assets is None:
        model = source.model_config()
    else:
        model = read_model_config(assets)
        # They are copied at the end; what is wrong with them must not cost the conversion.
        asset_files(assets)
        _warn_about_differences(source, model)
        _warn_about_tokenizer(assets, model)
    family = family_of(model).name
    if request.families is not None and family not in request.families:
        expected = " or ".join(sorted(request.families))
        raise WeightsError(f"the model is of the family {family}, but the flags expect {expected}")
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


def _warn_about_differences(source: WeightSource, model: ModelConfig) -> None:
    """Warn where a Megatron checkpoint describes another model than the Hugging Face config."""
    if isinstance(source, HfSource):
        return
    try:
        stored = source.model_config()
    except WeightsError:
        # An old checkpoint may describe its model incompletely, which is why the config is given.
        return
    if stored.vocab_size > model.vocab_size:
        # Old checkpoints record the padded vocabulary only.
        stored = dataclasses.replace(stored, vocab_size=model.vocab_size)
    for difference in describe_differences(stored, model, reward=source.is_reward_model):
        logger.warning("%s: %s", source.path, difference.replace("the model section", "the checkpoint"))


def _warn_about_tokenizer(assets: Path, model: ModelConfig) -> None:
    size = tokenizer_vocab_size(assets)
    if size is not None and size > model.vocab_size:
        logger.warning("%s: the tokenizer has %d ids, but the model only %d", assets, size, model.vocab_size)


def _format_size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.2f} MB"

"""PEFT's files `adapter_config.json` and `adapter_model.safetensors`, for plain LoRA of linear layers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from mindspeed_dpo.config.settings.lora import LORA_MODULES, AdapterConfig
from mindspeed_dpo.storage.digests import DigestingFile, FileDigest
from mindspeed_dpo.untrusted.errors import MalformedDataError, reraised_as
from mindspeed_dpo.untrusted.json_text import read_json_object
from mindspeed_dpo.untrusted.safetensors_files import read_safetensors
from mindspeed_dpo.weights.atomic_write import replace_folder, staging_folder
from mindspeed_dpo.weights.errors import WeightsError

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_NAME = re.compile(r"base_model\.model\.model\.layers\.\d+\.\w+\.\w+\.lora_[AB]\.weight")
# Keys that turn plain LoRA into something else if they are set.
_MUST_BE_EMPTY = (
    "modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "use_dora",
    "use_qalora", "fan_in_fan_out", "lora_bias", "trainable_token_indices", "target_parameters", "layer_replication",
    "alora_invocation_tokens", "arrow_config", "use_bdlora",
)  # fmt: skip


def read_config(folder: Path, tensors: Mapping[str, Tensor]) -> AdapterConfig:
    """Read the settings of an adapter.

    Args:
        folder: The PEFT folder.
        tensors: Its weights of any shape and dtype. Their names determine the target matrices, because the field
            `target_modules` may be a pattern.

    Raises:
        WeightsError: The configuration is damaged, or not plain LoRA of matrices of the decoder layers.
    """
    file = folder / CONFIG_FILE
    try:
        config = read_json_object(file)
        peft_type, bias = config.text("peft_type"), config.text("bias", "none")
        rank, alpha = config.integer("r", minimum=1), config.number("lora_alpha")
        dropout, use_rslora = config.number("lora_dropout", 0.0), config.boolean("use_rslora", False)
    except (OSError, MalformedDataError) as error:
        raise WeightsError(f"{file} is not a configuration of a LoRA adapter: {error}") from error
    if peft_type != "LORA" or bias != "none":
        raise WeightsError(f"{file}: peft_type={peft_type}, bias={bias}; only LORA without biases is supported")
    for key in _MUST_BE_EMPTY:
        if config.get(key):
            raise WeightsError(f"{file}: {key}={config[key]} is not supported; only plain LoRA is supported")
    modules = {name.split(".")[-3] for name in tensors}
    unsupported = sorted(modules - set(LORA_MODULES))
    if unsupported:
        raise WeightsError(
            f"{folder}: an adapter of {unsupported[0]} is not supported; supported: {', '.join(LORA_MODULES)}"
        )
    return AdapterConfig(
        lora_target_modules=tuple(module for module in LORA_MODULES if module in modules),
        lora_r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        use_rslora=use_rslora,
    )


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the adapter weights by PEFT's name without prefix: A [r, in] and B [out, r] in the stored dtype.

    Raises:
        WeightsError: The file is missing or damaged, or holds other tensors.
    """
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise WeightsError(f"{folder} has no {WEIGHTS_FILE}; save the adapter with PEFT as safetensors")
    with reraised_as(WeightsError):
        tensors = read_safetensors(file)
    unsupported = [name for name in tensors if not _NAME.fullmatch(name)]
    if unsupported or not tensors:
        content = unsupported[0] if unsupported else "no tensors"
        raise WeightsError(f"{file} holds {content}; only LoRA of linear layers is supported")
    return {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}


def write_peft(
    tensors: Mapping[str, Tensor], settings: AdapterConfig, base: str | None, target: Path
) -> dict[str, FileDigest]:
    """Write a folder that `PeftModel.from_pretrained` can load, atomically.

    Args:
        tensors: Adapter weights by PEFT's name without prefix: A [r, in] and B [out, r], any float dtype.
        settings: Rank, alpha and target matrices of the adapters.
        base: Path of the base weights, recorded for information.
        target: The folder to create or replace.

    Returns:
        Digests of the files by name.

    Raises:
        OSError: A file cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    owned = {_PREFIX + name: tensor.contiguous().clone() for name, tensor in sorted(tensors.items())}
    contents = {
        WEIGHTS_FILE: save(owned, metadata={"format": "pt"}),
        CONFIG_FILE: (json.dumps(_config(settings, base), indent=2) + "\n").encode(),
    }
    digests = {}
    with staging_folder(target) as folder:
        for name, content in contents.items():
            with DigestingFile(folder / name) as file:
                file.write(content)
            digests[name] = file.digest
        replace_folder(folder, target)
    return digests


def _config(settings: AdapterConfig, base: str | None) -> dict[str, Any]:
    alpha = settings.lora_alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": settings.lora_r,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": settings.lora_dropout,
        "use_rslora": settings.use_rslora,
        "target_modules": list(settings.modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
    }

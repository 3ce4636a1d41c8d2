"""The files of PEFT: `adapter_config.json` and `adapter_model.safetensors`, for plain LoRA of linear layers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mindspeed_dpo.config.settings.lora import LORA_MODULES, AdapterConfig
from mindspeed_dpo.weights.atomic_write import put_in_place, unfinished_folder
from mindspeed_dpo.weights.errors import WeightsError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_NAME = re.compile(r"base_model\.model\.model\.layers\.\d+\.\w+\.\w+\.lora_[AB]\.weight")
# Other than plain LoRA where they hold anything; `trainable_token_indices` and newer ones included.
_MUST_BE_EMPTY = (
    "modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "use_dora",
    "use_qalora", "fan_in_fan_out", "lora_bias", "trainable_token_indices", "target_parameters", "layer_replication",
    "alora_invocation_tokens", "arrow_config", "use_bdlora",
)  # fmt: skip


def read_config(folder: Path, tensors: Mapping[str, Tensor]) -> AdapterConfig:
    """The settings of an adapter; which matrices it has is told by its tensors, as PEFT's own field may be a pattern.

    Raises:
        WeightsError: It is damaged, or something else than plain LoRA of a layer's matrices.
    """
    file = folder / CONFIG
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        kind, rank, alpha = said["peft_type"], int(said["r"]), float(said["lora_alpha"])
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{file} is no configuration of a LoRA adapter: {error!r}") from error
    if kind != "LORA" or said.get("bias", "none") != "none":
        raise WeightsError(f"{file}: peft_type={kind}, bias={said.get('bias')}; only LORA without biases is supported")
    for key in _MUST_BE_EMPTY:
        if said.get(key):
            raise WeightsError(f"{file}: {key}={said[key]} is not supported; only plain LoRA is")
    modules = {name.split(".")[-3] for name in tensors}
    foreign = sorted(modules - set(LORA_MODULES))
    if foreign:
        raise WeightsError(f"{folder}: {foreign[0]} has an adapter; supported are those of {', '.join(LORA_MODULES)}")
    return AdapterConfig(
        lora_target_modules=tuple(module for module in LORA_MODULES if module in modules),
        lora_r=rank,
        lora_alpha=alpha,
        lora_dropout=float(said.get("lora_dropout") or 0.0),
        use_rslora=bool(said.get("use_rslora", False)),
    )


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter by PEFT's name without its prefix.

    Raises:
        WeightsError: The file is absent or damaged.
    """
    file = folder / WEIGHTS
    if not file.is_file():
        raise WeightsError(f"{folder} has no {WEIGHTS}; save the adapter with PEFT as safetensors")
    try:
        found = load_file(file)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} is damaged or truncated: {error}") from error
    foreign = [name for name in found if not _NAME.fullmatch(name)]
    if foreign or not found:
        what = foreign[0] if foreign else "nothing"
        raise WeightsError(f"{file} holds {what}; only LoRA of linear layers is supported")
    return {name.removeprefix(_PREFIX): tensor for name, tensor in found.items()}


def write_peft(tensors: Mapping[str, Tensor], settings: AdapterConfig, base: str | None, target: Path) -> None:
    """Write a folder that `PeftModel.from_pretrained` loads, whole or not at all.

    Args:
        tensors: By PEFT's name without its prefix.
        settings: What the adapters are like.
        base: Where the weights beneath lie, for the reader's convenience.
        target: Made, or replaced.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with unfinished_folder(target) as folder:
        owned = {_PREFIX + name: tensor.contiguous().clone() for name, tensor in sorted(tensors.items())}
        save_file(owned, folder / WEIGHTS, metadata={"format": "pt"})
        (folder / CONFIG).write_text(json.dumps(_config(settings, base), indent=2) + "\n", encoding="utf-8")
        # safetensors makes files that only their owner can read.
        (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)
        put_in_place(folder, target)


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

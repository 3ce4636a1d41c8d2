"""PEFT's files `adapter_config.json` and `adapter_model.safetensors`, for plain LoRA of linear layers and experts."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from mindspeed_dpo.config.settings.lora import DOWN, EXPERT_TARGETS, GATE_UP, LORA_MODULES, AdapterConfig
from mindspeed_dpo.storage.digesting_file import DigestingFile
from mindspeed_dpo.storage.digests import FileDigest
from mindspeed_dpo.untrusted.errors import MalformedDataError, reraised_as
from mindspeed_dpo.untrusted.json_object import JsonObject
from mindspeed_dpo.untrusted.json_text import read_json_object
from mindspeed_dpo.untrusted.safetensors_files import read_safetensors
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.lora.peft_experts import from_peft, is_of_experts, to_peft
from mindspeed_dpo.weights.output_folder import replace_folder, staging_folder

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
HEAD = "score.weight"
"""PEFT's name, without prefix, of the score head of a reward model, which is trained beside the adapters."""
_HEAD_MODULES = {"score", "classifier"}
"""What PEFT saves completely with the adapters of a classifier (`modules_to_save`)."""
_PREFIX = "base_model.model."
_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
# A matrix of attention, of a dense feed-forward layer, or of the shared experts of a layer.
_NAME = re.compile(r"model\.layers\.\d+\.\w+\.(?:shared_experts?\.)?\w+\.lora_[AB]\.weight")
# Keys that are read, and keys that change nothing in the logits of an adapter once it is trained.
_READ = (
    "peft_type", "bias", "r", "lora_alpha", "lora_dropout", "use_rslora", "init_lora_weights", "target_modules",
    "target_parameters",
)  # fmt: skip
_PATTERNS = ("rank_pattern", "alpha_pattern")
_WITHOUT_EFFECT = (
    "task_type", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version",
    "exclude_modules", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "runtime_config", "ensure_weight_tying",
)  # fmt: skip
_FUSED_PATTERN = rf".*\.{GATE_UP}"
"""PEFT's pattern for adapters of gate and up matrix that it has fused to one of twice the rank."""
# Ways to initialise an adapter that leave the base weights as they are. PEFT's others (pissa, olora, corda, loftq, …)
# subtract the initial adapter from them, and again whenever the adapter is loaded.
_PLAIN_INITIALISATIONS = (True, False, "gaussian", "orthogonal", "eva")


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
    _check_is_plain(config)
    saved = set(config.texts("modules_to_save", ()) or ())
    if HEAD not in tensors and saved:
        raise WeightsError(f"{folder}: modules_to_save={sorted(saved)}, but the weights hold no {HEAD}")
    tensors = {name: tensor for name, tensor in tensors.items() if name != HEAD}
    ranks = {
        name.split(".")[-3]: tensor.shape[1] for name, tensor in tensors.items() if tensor.dim() == 3 and "_A." in name
    }
    modules = {name.split(".")[-3] for name, tensor in tensors.items() if tensor.dim() == 2}
    unsupported = sorted(modules - set(LORA_MODULES))
    if unsupported:
        raise WeightsError(
            f"{folder}: an adapter of {unsupported[0]} is not supported; supported: {', '.join(LORA_MODULES)}"
        )
    return AdapterConfig(
        lora_target_modules=tuple(module for module in LORA_MODULES if module in modules),
        lora_target_parameters=_expert_targets(ranks, rank),
        lora_r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        use_rslora=use_rslora,
    )


def _expert_targets(ranks: Mapping[str, int], rank: int) -> tuple[str, ...]:
    """The items of `lora_target_parameters` for adapters of experts with these ranks; `rank` is that of the others."""
    names = {DOWN} & ranks.keys()
    if GATE_UP in ranks:
        names |= {GATE_UP} if ranks[GATE_UP] == rank else {"gate_proj", "up_proj"}
    return tuple(target for target in EXPERT_TARGETS if target.rsplit(".", 1)[-1] in names)


def _check_is_plain(config: JsonObject) -> None:
    """Reject whatever turns plain LoRA into something else, keys of later releases of PEFT included."""
    way = config.get("init_lora_weights", True)
    if way is not None and not any(
        way is plain or (way == plain and isinstance(way, str)) for plain in _PLAIN_INITIALISATIONS
    ):
        raise WeightsError(
            f"{config.location}: init_lora_weights={reprlib.repr(way)} changes the base weights, so that the adapter "
            "does not fit those on disk; save it as plain LoRA with PEFT's "
            "save_pretrained(…, path_initial_model_for_weight_conversion=…), or merge it with PEFT's merge_and_unload()"
        )
    for key in config.keys() - {*_READ, *_WITHOUT_EFFECT}:
        value = config[key]
        if key in _PATTERNS and _gate_up_factor(config) == 2:
            continue
        if key == "modules_to_save" and set(config.texts(key, ()) or ()) <= _HEAD_MODULES:
            continue
        # A number alone, such as qalora_group_size, only refines what another key turns on.
        if value and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise WeightsError(
                f"{config.location}: {key}={reprlib.repr(value)} is not supported; only plain LoRA is supported"
            )


def _gate_up_factor(config: JsonObject) -> int:
    """The ratio of the rank and alpha of `gate_up_proj` to those of the others: 2 where PEFT has fused two adapters.

    1 also stands for patterns that say anything else, which are not supported.
    """
    twice = [2 * config.integer("r"), 2 * config.number("lora_alpha")]
    patterns = [config.section(key, None) for key in _PATTERNS]
    if any(pattern is None or list(pattern) != [_FUSED_PATTERN] for pattern in patterns):
        return 1
    return 2 if [pattern[_FUSED_PATTERN] for pattern in patterns if pattern is not None] == twice else 1


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read the adapter weights by PEFT's name without prefix: A [r, in] and B [out, r] in the stored dtype.

    Those of experts are [E, r, in] and [E, out, r], by the parameter's name in transformers 5.

    Raises:
        WeightsError: The file is missing or damaged, or holds other tensors.
    """
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise WeightsError(f"{folder} has no {WEIGHTS_FILE}; save the adapter with PEFT as safetensors")
    with reraised_as(WeightsError):
        stored = read_safetensors(file)
    tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in stored.items()}
    experts = {name for name in tensors if is_of_experts(name)}
    if quantised := [name for name, tensor in tensors.items() if tensor.dtype not in _DTYPES]:
        dtype = str(tensors[quantised[0]].dtype).removeprefix("torch.")
        raise WeightsError(f"{file}: {quantised[0]} is stored as {dtype}; save the adapter in bfloat16 or float32")
    unsupported = [name for name in stored if not _is_supported(name)]
    if unsupported or not tensors:
        content = unsupported[0] if unsupported else "no tensors"
        raise WeightsError(f"{file} holds {content}; only LoRA of linear layers and of experts is supported")
    linear = {name: tensor for name, tensor in tensors.items() if name not in experts}
    return linear | (_read_experts(folder, {name: tensors[name] for name in experts}) if experts else {})


def _is_supported(name: str) -> bool:
    """Whether a stored tensor is of an adapter of a matrix or of experts, or the score head."""
    module = name.removeprefix(_PREFIX)
    return name.startswith(_PREFIX) and bool(module == HEAD or is_of_experts(module) or _NAME.fullmatch(module))


def _read_experts(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the tensors of experts, by the ranks and parameters that the configuration gives."""
    try:
        config = read_json_object(folder / CONFIG_FILE)
        rank = config.integer("r", minimum=1)
        ranks = {GATE_UP: rank * _gate_up_factor(config), DOWN: rank}
        return from_peft(tensors, ranks, config.texts("target_parameters", ()))
    except (OSError, MalformedDataError, WeightsError) as error:
        raise WeightsError(f"{folder}: {error}") from error


def write_peft(
    tensors: Mapping[str, Tensor], settings: AdapterConfig, base: str | None, target: Path
) -> dict[str, FileDigest]:
    """Write a folder that `PeftModel.from_pretrained` can load, atomically.

    Args:
        tensors: Adapter weights by PEFT's name without prefix: A [r, in] and B [out, r], of experts A [E, r, in] and B
            [E, out, r], any float dtype.
        settings: Rank, alpha and target matrices of the adapters.
        base: Path of the base weights, recorded for information.
        target: The folder to create or replace.

    Returns:
        Digests of the files by name.

    Raises:
        OSError: A file cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    owned = {_PREFIX + name: tensor.contiguous().clone() for name, tensor in sorted(to_peft(tensors).items())}
    contents = {
        WEIGHTS_FILE: save(owned, metadata={"format": "pt"}),
        CONFIG_FILE: (json.dumps(_config(tensors, settings, base), indent=2) + "\n").encode(),
    }
    digests = {}
    with staging_folder(target) as folder:
        for name, content in contents.items():
            with DigestingFile(folder / name) as file:
                file.write(content)
            digests[name] = file.digest
        replace_folder(folder, target)
    return digests


def _config(tensors: Mapping[str, Tensor], settings: AdapterConfig, base: str | None) -> dict[str, Any]:
    linear = {name.split(".")[-3] for name, tensor in tensors.items() if tensor.dim() == 2 and name != HEAD}
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if HEAD in tensors else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": settings.lora_r,
        "lora_alpha": _number(settings.lora_alpha),
        "lora_dropout": settings.lora_dropout,
        "use_rslora": settings.use_rslora,
        "target_modules": [module for module in settings.modules if module in linear],
        **_expert_keys(tensors, settings),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": ["score"] if HEAD in tensors else None,
    }


def _expert_keys(tensors: Mapping[str, Tensor], settings: AdapterConfig) -> dict[str, Any]:
    """The keys of the configuration for experts; none without adapters of experts."""
    adapted = {name.split(".")[-3] for name, tensor in tensors.items() if tensor.dim() == 3}
    parameters = [f"mlp.experts.{name}" for name in (GATE_UP, DOWN) if name in adapted]
    if not parameters:
        return {}
    if settings.expert_ranks.get(GATE_UP, settings.lora_r) == settings.lora_r:
        return {"target_parameters": parameters}
    return {
        "target_parameters": parameters,
        "rank_pattern": {_FUSED_PATTERN: 2 * settings.lora_r},
        "alpha_pattern": {_FUSED_PATTERN: _number(2 * settings.lora_alpha)},
    }


def _number(value: float) -> float | int:
    return int(value) if value.is_integer() else value

"""Adapters on disk: a PEFT folder, or a training checkpoint that holds only adapters.

Both give unsharded tensors under PEFT's names without its prefix. Adapters are small, so they are not read in slices.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from mindspeed_dpo.config.settings.lora import AdapterConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.config.settings.stored_values import check_stored
from mindspeed_dpo.storage.user_paths import real_path
from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.json_text import read_json_object
from mindspeed_dpo.untrusted.text_files import has_file
from mindspeed_dpo.weights.dist_source import DESCRIPTION_FILE, DistSource
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.lora.peft import CONFIG_FILE, HEAD, WEIGHTS_FILE, read_config, read_tensors
from mindspeed_dpo.weights.lora.targets import adapter_tensors
from mindspeed_dpo.weights.weight_source import WeightSource

KEY_PREFIX = "adapters."
"""Prefix of PEFT's names in checkpoints."""
_FINGERPRINTED_BYTES = 1 << 20


class AdapterSource(ABC):
    """Adapters on disk.

    Attributes:
        path: The path that was opened.
        settings: Rank, alpha and target matrices of the adapters.
    """

    path: Path
    settings: AdapterConfig

    @property
    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Adapter weights by PEFT's name without prefix, unsharded, in the stored dtype: A [r, in] and B [out, r].

        Those of the experts of a layer are [E, r, in] and [E, out, r], by the parameter's name in transformers 5, such
        as `model.layers.3.mlp.experts.gate_up_proj.lora_A.weight`. The score head of a reward model, which is trained
        beside its adapters, is `score.weight` [1, h].
        """

    @property
    def has_head(self) -> bool:
        """Whether the adapters are those of a reward model, with its score head."""
        return HEAD in self.tensors

    @abstractmethod
    def files(self) -> Sequence[Path]:
        """The files that hold the adapters."""

    def check(self, model: ModelConfig) -> None:
        """Compare names and shapes with a model.

        Raises:
            WeightsError: They do not fit.
        """
        expected = {tensor.name: tensor.shape for tensor in adapter_tensors(model, self.settings)}
        if self.has_head:
            expected[HEAD] = (1, model.hidden_size)
        missing, unexpected = expected.keys() - self.tensors.keys(), self.tensors.keys() - expected.keys()
        for names, problem in ((missing, "lacks"), (unexpected, "holds an unexpected tensor")):
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                raise WeightsError(f"{self.path} {problem} {min(names)}{more}; was the adapter made for this model?")
        for name, shape in expected.items():
            if tuple(self.tensors[name].shape) != shape:
                actual = list(self.tensors[name].shape)
                raise WeightsError(f"{self.path}: {name} is {actual}, but the model expects {list(shape)}")


class PeftAdapter(AdapterSource):
    """A folder in PEFT's format."""

    def __init__(self, path: Path) -> None:
        """Read the configuration.

        Raises:
            WeightsError: It is damaged, or not plain LoRA.
        """
        self.path = path
        self.settings = read_config(path, self.tensors)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The weights in `adapter_model.safetensors`, in the stored dtype: A [r, in] and B [out, r]."""
        return read_tensors(self.path)

    def files(self) -> Sequence[Path]:
        """The files of weights and configuration."""
        return [self.path / WEIGHTS_FILE, self.path / CONFIG_FILE]


class CheckpointAdapter(AdapterSource):
    """The adapters of a training checkpoint.

    Attributes:
        base: Path of the base weights the adapters were trained on.
        base_fingerprint: The `quick_fingerprint` of the base weights.
    """

    def __init__(self, checkpoint: DistSource) -> None:
        """Read the adapter description of the checkpoint.

        Raises:
            WeightsError: It holds no adapters.
        """
        self.path, self._checkpoint = checkpoint.folder, checkpoint
        description = read_adapter_description(checkpoint.folder)
        if description is None:
            raise WeightsError(f"{checkpoint.folder} is a checkpoint of full weights and holds no adapters")
        self.settings = adapter_settings(description["settings"])
        self.base, self.base_fingerprint = Path(description["base"]), str(description["base_mark"])

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The weights in the checkpoint's files, in the stored dtype: A [r, in] and B [out, r]."""
        return read_checkpoint_adapters(self.path)

    def files(self) -> Sequence[Path]:
        """The files of the checkpoint."""
        return self._checkpoint.weight_files()


def read_checkpoint_adapters(folder: Path) -> dict[str, Tensor]:
    """Read the adapter weights of a checkpoint, in the stored dtype: A [r, in] and B [out, r] by PEFT's name."""
    checkpoint = DistSource(folder, folder)
    keys = [key for key in checkpoint.keys() if key.startswith(KEY_PREFIX)]  # noqa: SIM118 - not a mapping
    return {key.removeprefix(KEY_PREFIX): checkpoint.read_tensor(key) for key in keys}


def read_adapter_description(folder: Path) -> dict[str, Any] | None:
    """Read the description of adapters in a checkpoint; None where it holds full weights.

    Raises:
        WeightsError: The description is damaged.
    """
    file = folder / DESCRIPTION_FILE
    with reraised_as(WeightsError):
        if not has_file(file):
            return None
        description = read_json_object(file).section("adapters", None)
        if description is None:
            return None
        description.section("settings")
        texts = {key: description.text(key) for key in ("base", "base_mark")}
        return {**description.plain(), **texts}


def adapter_description(settings: AdapterConfig, base: WeightSource) -> dict[str, Any]:
    """The description of adapters that a checkpoint stores, so that their base weights can be opened again.

    For example `{"settings": {"lora_r": 16, ...}, "base": "/models/llama", "base_mark": "3fa9..."}`.
    """
    path = str(real_path(base.path))
    return {"settings": asdict(replace(settings, lora_load=None)), "base": path, "base_mark": quick_fingerprint(base)}


def adapter_settings(stored: dict[str, Any]) -> AdapterConfig:
    """The settings in the `settings` item of an adapter description.

    Raises:
        WeightsError: A value is missing, or not acceptable.
    """
    try:
        check_stored(AdapterConfig, stored)
        if stored.get("lora_target_modules") is None:
            raise ValueError("lora_target_modules is missing")
    except ValueError as error:
        raise WeightsError(f"the description of the adapters in a checkpoint is damaged: {error}") from error
    lists = ("lora_target_modules", "lora_target_parameters")
    return AdapterConfig(**{**stored, **{key: tuple(stored[key]) for key in lists if stored.get(key) is not None}})


def quick_fingerprint(source: WeightSource) -> str:
    """SHA-256 of names, sizes and both ends of the weight files, in hexadecimal digits.

    It distinguishes weights of different models or runs; it does not detect a changed byte in the middle of a file.
    """
    digest = hashlib.sha256()
    for file in sorted(source.weight_files()):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size};".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_FINGERPRINTED_BYTES))
            stream.seek(max(0, size - _FINGERPRINTED_BYTES))
            digest.update(stream.read(_FINGERPRINTED_BYTES))
    return digest.hexdigest()


def check_adapter(adapter: AdapterSource, settings: AdapterConfig, model: ModelConfig) -> None:
    """Check that an adapter has the settings of a run.

    Raises:
        WeightsError: A setting differs; the message names the first one.
    """
    stored = adapter.settings
    compared = {
        "lora_r": (stored.lora_r, settings.lora_r),
        "lora_target_modules": (list(stored.modules), list(settings.modules)),
        "lora_target_parameters": (list(stored.lora_target_parameters), list(settings.lora_target_parameters)),
        "use_rslora": (stored.use_rslora, settings.use_rslora),
        "lora_alpha": (stored.lora_alpha, settings.lora_alpha),
    }
    if set(adapter_tensors(model, stored)) == set(adapter_tensors(model, settings)):
        # Both select the same matrices, possibly under different names.
        del compared["lora_target_modules"], compared["lora_target_parameters"]
    for key, (actual, expected) in compared.items():
        if actual != expected:
            raise WeightsError(f"{adapter.path} has {key}={actual}, but the run has {expected}; set {key}={actual}")

"""Where adapters lie: a folder of PEFT, or a training checkpoint that holds nothing else.

Both give whole tensors under PEFT's names without its prefix. Adapters are small, so nothing is read in slices.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from mindspeed_dpo.config.settings.lora import AdapterConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.base import WeightSource
from mindspeed_dpo.weights.dist_source import DESCRIPTION, DistSource
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.lora.peft import CONFIG, WEIGHTS, read_config, read_tensors
from mindspeed_dpo.weights.lora.targets import parts

KEY_PREFIX = "adapters."
"""Before PEFT's name, in checkpoints."""
_MARKED_BYTES = 1 << 20


class AdapterSource(ABC):
    """Adapters on disk.

    Attributes:
        path: What was opened.
        settings: What they are like.
    """

    path: Path
    settings: AdapterConfig

    @property
    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All tensors, whole, by PEFT's name without its prefix."""

    @abstractmethod
    def files(self) -> Sequence[Path]:
        """The files that hold them."""

    def check(self, model: ModelConfig) -> None:
        """Compare names and shapes with a model.

        Raises:
            WeightsError: They do not fit.
        """
        expected = {part.name: part.shape for part in parts(model, self.settings)}
        missing, unexpected = expected.keys() - self.tensors.keys(), self.tensors.keys() - expected.keys()
        for names, what in ((missing, "lacks"), (unexpected, "holds, and the model has no place for,")):
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                raise WeightsError(f"{self.path} {what} {min(names)}{more}; was the adapter made for this model?")
        for name, shape in expected.items():
            if tuple(self.tensors[name].shape) != shape:
                found = list(self.tensors[name].shape)
                raise WeightsError(f"{self.path}: {name} is {found}, but the model expects {list(shape)}")


class PeftAdapter(AdapterSource):
    """A folder that PEFT wrote, or could have written."""

    def __init__(self, path: Path) -> None:
        """Read its configuration.

        Raises:
            WeightsError: It is damaged, or no plain LoRA.
        """
        self.path = path
        self.settings = read_config(path, self.tensors)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Read from `adapter_model.safetensors`."""
        return read_tensors(self.path)

    def files(self) -> Sequence[Path]:
        """Weights and configuration."""
        return [self.path / WEIGHTS, self.path / CONFIG]


class SavedAdapter(AdapterSource):
    """The adapters of a training checkpoint."""

    def __init__(self, checkpoint: DistSource) -> None:
        """Read what the checkpoint says about itself.

        Raises:
            WeightsError: It holds no adapters.
        """
        self.path, self._checkpoint = checkpoint.folder, checkpoint
        said = adapters_of(checkpoint.folder)
        if said is None:
            raise WeightsError(f"{checkpoint.folder} is a checkpoint of all weights and holds no adapters")
        self.settings = settings_from(said["settings"])
        self.base, self.base_mark = Path(said["base"]), str(said["base_mark"])

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Read from the checkpoint's files."""
        return stored_adapters(self.path)

    def files(self) -> Sequence[Path]:
        """Those of the checkpoint."""
        return self._checkpoint.weight_files()


def stored_adapters(folder: Path) -> dict[str, Tensor]:
    """The adapters in the files of a checkpoint, by PEFT's name without its prefix."""
    checkpoint = DistSource(folder, folder)
    names = [key for key in checkpoint.keys() if key.startswith(KEY_PREFIX)]  # noqa: SIM118 - no mapping
    return {name.removeprefix(KEY_PREFIX): checkpoint.whole(name) for name in names}


def adapters_of(folder: Path) -> dict[str, Any] | None:
    """What a checkpoint says about its adapters; None where it holds all weights.

    Raises:
        WeightsError: Its description is damaged.
    """
    file = folder / DESCRIPTION
    if not file.is_file():
        return None
    try:
        said = json.loads(file.read_text(encoding="utf-8")).get("adapters")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise WeightsError(f"{file} is damaged: {error}") from error
    return said if said is None else dict(said)


def described(settings: AdapterConfig, base: WeightSource) -> dict[str, Any]:
    """What a checkpoint must say about its adapters, so that they find the weights beneath them again."""
    where = str(base.path.resolve())
    return {"settings": asdict(replace(settings, lora_load=None)), "base": where, "base_mark": base_mark(base)}


def settings_from(said: dict[str, Any]) -> AdapterConfig:
    """The settings that `described` wrote down."""
    return AdapterConfig(**{**said, "lora_target_modules": tuple(said["lora_target_modules"])})


def base_mark(source: WeightSource) -> str:
    """A cheap fingerprint of weights: names, sizes and both ends of their files.

    It tells other weights from these; it does not prove that no byte in between has changed.
    """
    digest = hashlib.sha256()
    for file in sorted(source.weight_files()):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size};".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_MARKED_BYTES))
            stream.seek(max(0, size - _MARKED_BYTES))
            digest.update(stream.read(_MARKED_BYTES))
    return digest.hexdigest()


def check_adapter(adapter: AdapterSource, settings: AdapterConfig) -> None:
    """See that an adapter is what the settings of a run say.

    Raises:
        WeightsError: It is another; the sentence names the first key that differs.
    """
    found = adapter.settings
    differences = {
        "lora_r": (found.lora_r, settings.lora_r),
        "lora_target_modules": (list(found.modules), list(settings.modules)),
        "use_rslora": (found.use_rslora, settings.use_rslora),
        "lora_alpha": (found.lora_alpha, settings.lora_alpha),
    }
    for key, (theirs, ours) in differences.items():
        if theirs != ours:
            raise WeightsError(f"{adapter.path} has {key}={theirs}, but {ours} was asked for; set {key}={theirs}")

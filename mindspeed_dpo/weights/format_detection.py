"""Detects the format of the weights or adapters at a path, and opens them."""

from __future__ import annotations

from pathlib import Path

from mindspeed_dpo.storage.folder_replacement import earlier_content
from mindspeed_dpo.storage.nearest_path import nearest_path_advice
from mindspeed_dpo.untrusted.dist_checkpoint import METADATA_FILE
from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.text_files import read_text
from mindspeed_dpo.weights.dist_source import COMPLETE_FILE, DistSource
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.hf.hf_source import HfSource
from mindspeed_dpo.weights.legacy.legacy_source import LegacySource
from mindspeed_dpo.weights.legacy.legacy_writer import TRACKER
from mindspeed_dpo.weights.lora.adapter_source import (
    AdapterSource,
    CheckpointAdapter,
    PeftAdapter,
    read_adapter_description,
)
from mindspeed_dpo.weights.lora.merged_source import MergedSource
from mindspeed_dpo.weights.lora.peft import CONFIG_FILE
from mindspeed_dpo.weights.weight_source import WeightSource

_RELEASE = "release"
_MAX_DIGITS = 19


def open_weights(path: str | Path) -> WeightSource:
    """Open weights for reading; nothing is written, and tensors are read only on request.

    A training checkpoint of adapters is opened together with its base weights, merged.

    Args:
        path: A Hugging Face folder, a Megatron checkpoint of rank files, or a training checkpoint; for the latter two
            either the folder with the tracker or the folder of one iteration.

    Raises:
        FileNotFoundError: The path does not exist.
        WeightsError: The folder holds no weights, no tracker, or not the iteration that the tracker names.
    """
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root} does not exist or is not a folder; give a folder with weights{earlier_content(root)}"
            f"{nearest_path_advice(root)}"
        )
    if (root / TRACKER).is_file():
        return _open_iteration(root, _tracked_iteration(root))
    if (root / CONFIG_FILE).is_file():
        raise WeightsError(
            f"{root} is an adapter, not a model; give its base weights here, and the adapter as lora_load "
            "(convert_ckpt.py: --lora-load)"
        )
    if any(root.glob("mp_rank_*")) or (root / METADATA_FILE).exists() or any(root.glob("*.distcp")):
        return _open_iteration(root, root)
    if any(root.glob("*.safetensors*")) or any(root.glob("pytorch_model*")) or (root / "config.json").is_file():
        return HfSource(root)
    if any(root.glob("iter_*")) or (root / _RELEASE).is_dir():
        raise WeightsError(
            f"{root} has iterations but no {TRACKER}; it may be incomplete. Give the folder of one iteration"
        )
    raise WeightsError(
        f"{root} holds no weights; expected config.json with safetensors (Hugging Face), or {TRACKER} (Megatron)"
    )


def open_adapter(path: str | Path) -> AdapterSource:
    """Open adapters for reading.

    Args:
        path: A PEFT folder, or a training checkpoint of adapters: the folder with the tracker or the folder of one
            iteration.

    Raises:
        FileNotFoundError: The path does not exist.
        WeightsError: It holds no adapters, or adapters that are not supported.
    """
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root} does not exist or is not a folder; give a folder with an adapter{earlier_content(root)}"
            f"{nearest_path_advice(root)}"
        )
    if (root / CONFIG_FILE).is_file():
        return PeftAdapter(root)
    folder = _tracked_iteration(root) if (root / TRACKER).is_file() else root
    if not (folder / COMPLETE_FILE).exists():
        raise WeightsError(
            f"{root} holds no adapter; expected {CONFIG_FILE} (PEFT) or a checkpoint of a run with adapters"
        )
    return CheckpointAdapter(DistSource(root, folder))


def _tracked_iteration(root: Path) -> Path:
    """The folder that the tracker names: an iteration, or `release`."""
    tracker = root / TRACKER
    with reraised_as(WeightsError):
        content = read_text(tracker).strip()
    if content != _RELEASE and not (content.isascii() and content.isdigit() and len(content) < _MAX_DIGITS):
        raise WeightsError(f"{tracker} must hold a number or the word {_RELEASE}, got {content[:40]!r}")
    folder = root / (_RELEASE if content == _RELEASE else f"iter_{int(content):07d}")
    if not folder.is_dir():
        raise WeightsError(f"{folder} does not exist, although {TRACKER} names it{earlier_content(folder)}")
    return folder


def _open_iteration(root: Path, folder: Path) -> WeightSource:
    if any(folder.glob("mp_rank_*")):
        return LegacySource(root, folder)
    if any((folder / name).exists() for name in (METADATA_FILE, COMPLETE_FILE)) or any(folder.glob("*.distcp")):
        checkpoint = DistSource(root, folder)
        return checkpoint if read_adapter_description(folder) is None else _open_merged(checkpoint)
    raise WeightsError(f"{folder} holds neither mp_rank_* folders nor a {METADATA_FILE} file")


def _open_merged(checkpoint: DistSource) -> MergedSource:
    """Open the adapters of a checkpoint together with the base weights that it names."""
    adapter = CheckpointAdapter(checkpoint)
    if not adapter.base.is_dir():
        raise WeightsError(
            f"{checkpoint.folder} holds adapters for the weights in {adapter.base}, which does not exist; restore it, "
            f"or merge with convert_ckpt.py --load-dir WEIGHTS --lora-load {checkpoint.folder}"
        )
    return MergedSource(open_weights(adapter.base), adapter, checkpoint.path)

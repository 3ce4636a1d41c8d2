"""Find out what kind of weights a path holds, and open it."""

from __future__ import annotations

from pathlib import Path

from mindspeed_dpo.weights.base import WeightSource
from mindspeed_dpo.weights.dist_source import COMPLETE, METADATA, DistSource
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.hf_source import HfSource
from mindspeed_dpo.weights.legacy_source import LegacySource
from mindspeed_dpo.weights.legacy_writer import TRACKER
from mindspeed_dpo.weights.lora.merged import MergedSource
from mindspeed_dpo.weights.lora.peft import CONFIG as ADAPTER_CONFIG
from mindspeed_dpo.weights.lora.source import AdapterSource, PeftAdapter, SavedAdapter, adapters_of

_RELEASE = "release"


def open_weights(path: str | Path, iteration: int | None = None) -> WeightSource:
    """Open weights for reading; nothing is written, and tensors are read only when asked for.

    A training checkpoint that holds adapters only is opened with the weights beneath them, merged.

    Args:
        path: A Hugging Face folder, a Megatron checkpoint of rank files, or a training checkpoint; of the latter two
            either the folder with the tracker or one iteration's.
        iteration: The iteration to read instead of the tracker's.

    Raises:
        FileNotFoundError: The path does not exist.
        WeightsError: The folder holds no weights, no tracker, or an iteration that is not there.
    """
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} does not exist or is not a folder; give a folder with weights")
    if iteration is not None or (root / TRACKER).is_file():
        return _open_iteration(root, _iteration_of(root, iteration))
    if (root / ADAPTER_CONFIG).is_file():
        raise WeightsError(
            f"{root} is an adapter, not a model; give the weights beneath it here, and the adapter as lora_load "
            "(convert_ckpt.py: --lora-load)"
        )
    if any(root.glob("mp_rank_*")) or (root / METADATA).exists() or any(root.glob("*.distcp")):
        return _open_iteration(root, root)
    if any(root.glob("*.safetensors*")) or any(root.glob("pytorch_model*")) or (root / "config.json").is_file():
        return HfSource(root)
    if any(root.glob("iter_*")) or (root / _RELEASE).is_dir():
        raise WeightsError(f"{root} has iterations but no {TRACKER}: is it unfinished? Give one iteration's folder")
    raise WeightsError(
        f"{root} holds no weights; expected config.json with safetensors (Hugging Face), or {TRACKER} (Megatron)"
    )


def open_adapter(path: str | Path) -> AdapterSource:
    """Open adapters for reading.

    Args:
        path: A folder of PEFT, or a training checkpoint that holds adapters: the folder with the tracker or one
            iteration's.

    Raises:
        FileNotFoundError: The path does not exist.
        WeightsError: It holds no adapters, or some that are not supported.
    """
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} does not exist or is not a folder; give a folder with an adapter")
    if (root / ADAPTER_CONFIG).is_file():
        return PeftAdapter(root)
    folder = _iteration_of(root, None) if (root / TRACKER).is_file() else root
    if not (folder / COMPLETE).exists():
        raise WeightsError(
            f"{root} holds no adapter; expected {ADAPTER_CONFIG} (PEFT) or a checkpoint of a run with adapters"
        )
    return SavedAdapter(DistSource(root, folder))


def _iteration_of(root: Path, iteration: int | None) -> Path:
    folder = root / (_iteration_folder(iteration) if iteration is not None else _tracked(root / TRACKER))
    if not folder.is_dir():
        raise WeightsError(f"{folder} does not exist, although {TRACKER} or the call names it")
    return folder


def _open_iteration(root: Path, folder: Path) -> WeightSource:
    if any(folder.glob("mp_rank_*")):
        return LegacySource(root, folder)
    if any((folder / name).exists() for name in (METADATA, COMPLETE)) or any(folder.glob("*.distcp")):
        checkpoint = DistSource(root, folder)
        return checkpoint if adapters_of(folder) is None else _merged(checkpoint)
    raise WeightsError(f"{folder} holds neither mp_rank_* folders nor a {METADATA} file")


def _merged(checkpoint: DistSource) -> MergedSource:
    """The adapters of a checkpoint on the weights that it names."""
    adapter = SavedAdapter(checkpoint)
    if not adapter.base.is_dir():
        raise WeightsError(
            f"{checkpoint.folder} holds adapters of the weights in {adapter.base}, which are not there; bring them "
            f"back, or merge with convert_ckpt.py --load-dir WEIGHTS --lora-load {checkpoint.folder}"
        )
    return MergedSource(open_weights(adapter.base), adapter, checkpoint.path)


def _tracked(tracker: Path) -> str:
    """The folder a tracker names: an iteration, or `release`."""
    word = tracker.read_text(encoding="utf-8").strip()
    if word == _RELEASE:
        return word
    if not word.isdigit():
        raise WeightsError(f"{tracker} must hold a number or the word {_RELEASE}, got {word[:40]!r}")
    return _iteration_folder(int(word))


def _iteration_folder(iteration: int) -> str:
    return f"iter_{iteration:07d}"

"""Find out what kind of weights a path holds, and open it."""

from __future__ import annotations

from pathlib import Path

from mindspeed_dpo.models.weights.base import WeightSource
from mindspeed_dpo.models.weights.dist_source import COMPLETE, METADATA, DistSource
from mindspeed_dpo.models.weights.errors import WeightsError
from mindspeed_dpo.models.weights.hf_source import HfSource
from mindspeed_dpo.models.weights.legacy_source import LegacySource
from mindspeed_dpo.models.weights.legacy_writer import TRACKER

_RELEASE = "release"


def open_weights(path: str | Path, iteration: int | None = None) -> WeightSource:
    """Open weights for reading; nothing is written, and tensors are read only when asked for.

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
        folder = root / (_iteration_folder(iteration) if iteration is not None else _tracked(root / TRACKER))
        if not folder.is_dir():
            raise WeightsError(f"{folder} does not exist, although {TRACKER} or the call names it")
        return _open_iteration(root, folder)
    if any(root.glob("mp_rank_*")) or (root / METADATA).exists() or any(root.glob("*.distcp")):
        return _open_iteration(root, root)
    if any(root.glob("*.safetensors*")) or any(root.glob("pytorch_model*")) or (root / "config.json").is_file():
        return HfSource(root)
    if any(root.glob("iter_*")) or (root / _RELEASE).is_dir():
        raise WeightsError(f"{root} has iterations but no {TRACKER}: is it unfinished? Give one iteration's folder")
    raise WeightsError(
        f"{root} holds no weights; expected config.json with safetensors (Hugging Face), or {TRACKER} (Megatron)"
    )


def _open_iteration(root: Path, folder: Path) -> WeightSource:
    if any(folder.glob("mp_rank_*")):
        return LegacySource(root, folder)
    if any((folder / name).exists() for name in (METADATA, COMPLETE)) or any(folder.glob("*.distcp")):
        return DistSource(root, folder)
    raise WeightsError(f"{folder} holds neither mp_rank_* folders nor a {METADATA} file")


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

"""The folders of a Megatron checkpoint of one file per rank: their names, and which of them a layout has."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.layer_placement import ParallelLayout
from mindspeed_dpo.weights.legacy.expert_storage import DEFAULT_STORAGE, ExpertDivision, ExpertStorage

RANK_FILE = "model_optim_rng.pt"
_UNSLICED = ExpertStorage(division=ExpertDivision.UNSLICED)


def rank_folder(layout: ParallelLayout, tp_rank: int, pp_rank: int, ep_rank: int = 0) -> str:
    """Megatron's name of a rank's folder; stage and expert-parallel rank are in it only where there are several."""
    stage = f"_{pp_rank:03d}" if layout.pp > 1 else ""
    return f"mp_rank_{tp_rank:02d}" + stage + (f"_{ep_rank:03d}" if layout.ep > 1 else "")


def has_undivided_experts(present: Set[str], layout: ParallelLayout) -> bool:
    """Whether only those pairs of ranks have folders that undivided experts need, which are fewer than all pairs."""
    names = _folder_names(layout, _UNSLICED)
    return names != _folder_names(layout, DEFAULT_STORAGE) and present == names


def check_folders(folder: Path, present: Set[str], layout: ParallelLayout) -> None:
    """Check that there is a file for every rank, and no folder of another layout.

    Args:
        folder: The iteration folder.
        present: The names of the rank folders in it.
        layout: The layout that the files claim.

    Raises:
        WeightsError: Files are missing, or folders do not belong to the layout; the message lists them.
    """
    expected = _folder_names(layout, _UNSLICED if has_undivided_experts(present, layout) else DEFAULT_STORAGE)
    absent = sorted(name for name in expected if not (folder / name / RANK_FILE).is_file())
    unexpected = sorted(present - expected)
    if absent or unexpected:
        sizes = f"TP {layout.tp} x PP {layout.pp}" + (f" x EP {layout.ep}" if layout.ep > 1 else "")
        raise WeightsError(
            f"{folder} should hold {sizes} rank files; "
            f"missing: {', '.join(absent) or 'none'}; of another layout: {', '.join(unexpected) or 'none'}"
        )


def _folder_names(layout: ParallelLayout, storage: ExpertStorage) -> set[str]:
    """The names of the folders of all ranks; empty where the sizes do not allow such files."""
    if storage.division is ExpertDivision.UNSLICED and layout.tp % layout.ep and layout.ep % layout.tp:
        return set()
    return {rank_folder(layout, t, p, e) for t, e in storage.ranks(layout) for p in range(layout.pp)}

"""Detects how the files of a Megatron checkpoint hold experts, by the names and shapes of one layer's tensors."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping

from torch import Tensor

from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.layer_placement import ParallelLayout
from mindspeed_dpo.weights.legacy.expert_storage import ExpertDivision, ExpertForm, ExpertStorage
from mindspeed_dpo.weights.legacy.legacy_expert_args import ExpertSizes, sizes_from_args

_STORED = {
    ExpertForm.PER_EXPERT: re.compile(r"\.mlp\.experts\.local_experts\.(\d+)\.linear_fc2\.weight$"),
    ExpertForm.GROUPED: re.compile(r"\.mlp\.experts\.weight2()$"),
    ExpertForm.NUMBERED: re.compile(r"\.mlp\.experts\.linear_fc2\.weight(\d+)$"),
}


def expert_state(chunk: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the experts of the first layer in a chunk that has some, as stored: any shape and dtype."""
    stored = [name for name in chunk if any(pattern.search(name) for pattern in _STORED.values())]
    layer = stored[0].partition(".mlp.")[0] + ".mlp." if stored else ""
    return {name: chunk[name] for name in stored if name.startswith(layer)}


def detect_storage(
    state: Mapping[str, Tensor],
    layout: ParallelLayout,
    args: argparse.Namespace,
    *,
    is_diagonal: bool,
    extends_ep: bool | None,
    file: object,
) -> ExpertStorage:
    """The form and division of the experts of a checkpoint.

    Args:
        state: The weights of one layer's experts in one file, any shape and dtype, as of `expert_state`.
        layout: The parallel sizes of the files.
        args: The stored run arguments.
        is_diagonal: Whether only the pairs of ranks have files that `ExpertDivision.UNSLICED` uses, and no others.
        extends_ep: Whether whole experts are divided among tensor-parallel ranks too, if the user has set it.
        file: For messages.

    Raises:
        WeightsError: A file holds experts twice, or in a form that is ambiguous.
    """
    matches = {form: [match for name in state if (match := pattern.search(name))] for form, pattern in _STORED.items()}
    forms = [form for form, of_form in matches.items() if of_form]
    if len(forms) > 1:
        layer = next(iter(state)).partition(".mlp.")[0]
        raise WeightsError(f"{file} holds the experts of {layer} twice, as {' and as '.join(f.value for f in forms)}")
    if not forms:
        return ExpertStorage()
    (form,) = forms
    extended = _is_extended(args, extends_ep, file)
    if extended and form is ExpertForm.PER_EXPERT and layout.tp > 1:
        raise WeightsError(
            f"{file} combines moe_tp_extend_ep with {form.value}, for which converters disagree about the parts of an "
            "expert; convert the original with --moe-grouped-gemm"
        )
    downs = {int(match[1] or 0): state[match.string] for match in matches[form]}
    division = _division(form, downs, sizes_from_args(args, file), layout, extended=extended, is_diagonal=is_diagonal)
    return ExpertStorage(form, division)


def _is_extended(args: argparse.Namespace, extends_ep: bool | None, file: object) -> bool:
    """Whether the run arguments, or the user where they do not say so, have `moe_tp_extend_ep`."""
    stored = getattr(args, "moe_tp_extend_ep", None)
    if extends_ep is not None and stored not in (None, extends_ep):
        raise WeightsError(f"{file}: args have moe_tp_extend_ep={stored}; omit --moe-tp-extend-ep")
    return bool(stored if extends_ep is None else extends_ep)


def _division(
    form: ExpertForm,
    downs: Mapping[int, Tensor],
    sizes: ExpertSizes,
    layout: ParallelLayout,
    *,
    extended: bool,
    is_diagonal: bool,
) -> ExpertDivision:
    """The division that fits the down matrices of one file; other shapes are left to the check of all tensors."""
    last = max(downs)
    if layout.tp == 1 or downs[last].dim() != 2:
        return ExpertDivision.SLICED
    if is_diagonal and layout.ep > 1:
        return ExpertDivision.UNSLICED
    num_experts, width = sizes.num_experts // layout.ep, sizes.width
    if form is ExpertForm.GROUPED:
        # Slices of all experts have as many rows as whole experts of a share of them.
        if downs[last].shape[0] == num_experts * width:
            return ExpertDivision.UNSLICED
        return ExpertDivision.EXTENDED if extended else ExpertDivision.SLICED
    if downs[last].shape[1] != width:
        return ExpertDivision.SLICED
    return ExpertDivision.UNSLICED if last >= num_experts // layout.tp else ExpertDivision.EXTENDED

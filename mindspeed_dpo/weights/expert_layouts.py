"""The layouts of an expert's matrices: undivided in this project, or sliced by tensor-parallel ranks in rank files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from mindspeed_dpo.weights.name_mapping import RuleTable, TensorRule
from mindspeed_dpo.weights.tensor_layouts import GateUp, RowParallel, TensorLayout


@dataclass(frozen=True)
class ExpertGateUp(GateUp):
    """The gate matrix above the up matrix of one expert, [2 width, h], which tensor-parallel ranks do not split."""

    partition_dim: ClassVar[int | None] = None
    num_blocks: ClassVar[int] = 1


@dataclass(frozen=True)
class ExpertDown(RowParallel):
    """The down matrix of one expert, [h, width], which tensor-parallel ranks do not split."""

    partition_dim: ClassVar[int | None] = None


def sliced_layout(layout: TensorLayout) -> TensorLayout:
    """The layout of an expert's matrix of which every tensor-parallel rank holds a slice."""
    if isinstance(layout, ExpertGateUp):
        return GateUp(layout.width)
    if isinstance(layout, ExpertDown):
        return RowParallel(layout.rows, layout.columns)
    return layout


def undivided_layout(layout: TensorLayout) -> TensorLayout:
    """The layout of an expert's matrix that no rank holds a slice of; the inverse of `sliced_layout`."""
    if isinstance(layout, GateUp):
        return ExpertGateUp(layout.width)
    if isinstance(layout, RowParallel):
        return ExpertDown(layout.rows, layout.columns)
    return layout


def with_sliced_experts(rules: RuleTable) -> RuleTable:
    """The rules of the same tensors, with experts of which every tensor-parallel rank holds a slice."""
    return tuple(_with_sliced_layout(rule) if rule.where == "expert" else rule for rule in rules)


def _with_sliced_layout(rule: TensorRule) -> TensorRule:
    return replace(rule, layout=sliced_layout(rule.layout))

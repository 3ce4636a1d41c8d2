"""The storage of routed experts in Megatron rank files: their ranks, whole or sliced, and their names.

MindSpeed-LLM writes three forms (`ExpertForm`) and divides experts in three ways (`ExpertDivision`). Detecting both in
a checkpoint is left to `expert_detection`.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace

from torch import Tensor

from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.expert_layouts import sliced_layout, undivided_layout, with_sliced_experts
from mindspeed_dpo.weights.layer_placement import ParallelLayout, Placement
from mindspeed_dpo.weights.model_sizes import Shape
from mindspeed_dpo.weights.name_mapping import RuleTable
from mindspeed_dpo.weights.tensor_layouts import TensorLayout

EXPERT_NAME = re.compile(
    r"(?P<module>.*\.mlp\.experts)\.local_experts\.(?P<index>\d+)\.linear_fc(?P<number>[12])\.weight"
)
"""The name of an expert's matrix in the tables of `families`."""


class ExpertForm(enum.Enum):
    """The names and shapes under which a rank file holds the experts of a layer."""

    PER_EXPERT = "local_experts.N.linear_fc1.weight"
    """One tensor for each matrix of an expert, as of `SequentialMLP`."""
    GROUPED = "weight1 and weight2"
    """Two tensors for all experts, as of `GroupedMLP`: transposed matrices, one expert after the other."""
    NUMBERED = "linear_fc1.weightN"
    """One tensor for each matrix of an expert, as of `TEGroupedMLP`."""


class ExpertDivision(enum.Enum):
    """The division of the experts of a layer between tensor- and expert-parallel ranks."""

    SLICED = "sliced by tensor-parallel ranks"
    """Expert-parallel ranks have different experts, tensor-parallel ranks a slice of each."""
    UNSLICED = "whole, by expert-parallel ranks (expert_tensor_parallel_size 1)"
    """Each pair of ranks in use, (r mod TP, r mod EP), has the whole experts of its expert-parallel rank."""
    EXTENDED = "whole, by expert- and tensor-parallel ranks (moe_tp_extend_ep)"
    """Every pair of ranks has whole experts of its own."""


@dataclass(frozen=True)
class ExpertStorage:
    """The form and division of a checkpoint, for example `ExpertStorage(ExpertForm.GROUPED)`.

    Attributes:
        form: Names and shapes.
        division: Which rank has what.
    """

    form: ExpertForm = ExpertForm.PER_EXPERT
    division: ExpertDivision = ExpertDivision.SLICED

    @property
    def is_sliced(self) -> bool:
        """Whether tensor-parallel ranks have slices of experts."""
        return self.division is ExpertDivision.SLICED

    def rules(self, rules: RuleTable) -> RuleTable:
        """The rules of the same tensors with the layouts that experts have in the files."""
        return with_sliced_experts(rules) if self.is_sliced else rules

    def layout(self, layout: TensorLayout) -> TensorLayout:
        """The layout that an expert's matrix has in the files."""
        return sliced_layout(layout) if self.is_sliced else undivided_layout(layout)

    def ranks(self, layout: ParallelLayout) -> list[tuple[int, int]]:
        """The (tensor-parallel, expert-parallel) ranks of a stage that have a file.

        Raises:
            WeightsError: Experts are whole, and neither of the two sizes divides the other.
        """
        tp, ep = layout.tp, layout.ep
        if self.division is not ExpertDivision.UNSLICED:
            return [(tp_rank, ep_rank) for tp_rank in range(tp) for ep_rank in range(ep)]
        if tp % ep and ep % tp:
            raise WeightsError(
                f"with expert_tensor_parallel_size 1, the tensor-parallel size {tp} or the expert-parallel size {ep} "
                "must divide the other"
            )
        return sorted((rank % tp, rank % ep) for rank in range(max(tp, ep)))

    def copy_of(self, tp_rank: int, layout: ParallelLayout) -> int:
        """An expert-parallel rank that has a file with this tensor-parallel rank."""
        return tp_rank % layout.ep if self.division is ExpertDivision.UNSLICED else 0

    def placement(self, placement: Placement, layout: ParallelLayout, ep_rank: int) -> Placement:
        """The placement of a file: that of its tensor-parallel rank and stage, with the experts it has."""
        if self.division is ExpertDivision.EXTENDED:
            return replace(placement, ep_rank=ep_rank * layout.tp + placement.tp_rank, ep_size=layout.ep * layout.tp)
        return replace(placement, ep_rank=ep_rank, ep_size=layout.ep)

    def holders(self, expert: int, num_experts: int, layout: ParallelLayout) -> list[tuple[int, int, int]]:
        """Tensor-parallel rank, expert-parallel rank and local index of an expert, for each of its slices in order.

        Raises:
            WeightsError: The ranks do not divide the number of experts.
        """
        count = self.experts_per_rank(num_experts, layout)
        group, index = divmod(expert, count)
        if self.is_sliced:
            return [(tp_rank, group, index) for tp_rank in range(layout.tp)]
        if self.division is ExpertDivision.UNSLICED:
            return [(group % layout.tp, group, index)]
        ep_rank, tp_rank = divmod(group, layout.tp)
        return [(tp_rank, ep_rank, index)]

    def experts_per_rank(self, num_experts: int, layout: ParallelLayout) -> int:
        """Number of experts of a layer that one file has.

        Raises:
            WeightsError: The ranks do not divide the number of experts.
        """
        extended = self.division is ExpertDivision.EXTENDED
        size = layout.ep * layout.tp if extended else layout.ep
        if num_experts % size:
            ranks = "expert-parallel size" + (" times the tensor-parallel size (moe_tp_extend_ep)" if extended else "")
            raise WeightsError(f"the {ranks} {size} does not divide num_experts={num_experts}; choose a divisor")
        return num_experts // size

    def stored_name(self, name: str) -> str:
        """The name in the file of a tensor that is `name` in the tables of `families`."""
        match = EXPERT_NAME.fullmatch(name)
        if match is None or self.form is ExpertForm.PER_EXPERT:
            return name
        if self.form is ExpertForm.GROUPED:
            return f"{match['module']}.weight{match['number']}"
        return f"{match['module']}.linear_fc{match['number']}.weight{match['index']}"

    def stored_shape(self, name: str, matrix: Shape, num_experts: int) -> Shape:
        """The shape of a stored tensor, from that of an expert's matrix in the file and the number of experts in it."""
        if self.form is not ExpertForm.GROUPED:
            return matrix
        rows, columns = matrix
        return (columns, num_experts * rows) if name.endswith("weight1") else (num_experts * columns, rows)

    def stored_part(self, matrix: Tensor) -> Tensor:
        """The weights of one expert in a stored tensor, any dtype: [a, b], or [b, a] if grouped."""
        return matrix.t() if self.form is ExpertForm.GROUPED else matrix

    def matrix(self, stored: Tensor, index: int, matrix: Shape) -> Tensor:
        """The weights of one expert in a stored tensor.

        Args:
            stored: The weights in the file, of `stored_shape` and any dtype.
            index: The expert's index in the file.
            matrix: The shape of the result.
        """
        if self.form is not ExpertForm.GROUPED:
            return stored
        rows, columns = matrix
        return stored.reshape(-1, columns, rows)[index].t()


DEFAULT_STORAGE = ExpertStorage()

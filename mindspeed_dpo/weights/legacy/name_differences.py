"""Comparison of the names in rank files with those that a model has, with layer and experts of each difference."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.layer_placement import ParallelLayout, Placement
from mindspeed_dpo.weights.legacy.expert_storage import ExpertForm, ExpertStorage
from mindspeed_dpo.weights.name_mapping import OUTPUT_LAYER, RuleTable, TensorEntry, is_tied, local_entries

_MTP_PREFIX = "mtp."
_LAYER = re.compile(r"decoder\.layers\.(\d+)\.")


@dataclass(frozen=True)
class ExpectedName:
    """A tensor of a rank file.

    Attributes:
        name: The name under which it is missing if none of `names` is stored.
        names: All names under which it may be stored.
        entry: The tensor, or for grouped experts that of the first of them.
        is_optional: Whether it may be absent.
    """

    name: str
    names: tuple[str, ...]
    entry: TensorEntry
    is_optional: bool


@dataclass
class NameComparison:
    """Collects the differences of all rank files.

    Attributes:
        rules: The rules of the model's tensors.
        ignored_rules: The rules of tensors that may be stored and are not read.
        model: The architecture.
        layout: How the files divide the model.
        storage: How they hold experts.
        missing: Names that are not stored, with their rank.
        unexpected: Names that the model does not have, with their rank.
        mtp: Names of tensors of layers that predict further tokens, with their rank.
    """

    rules: RuleTable
    ignored_rules: RuleTable
    model: ModelConfig
    layout: ParallelLayout
    storage: ExpertStorage
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mtp: list[str] = field(default_factory=list)

    def compare(self, placement: Placement, folder: str, rank: tuple[int, int], state: Mapping[str, object]) -> None:
        """Compare one chunk of one file.

        Args:
            placement: The chunk, of any tensor- and expert-parallel rank.
            folder: The name of the file's folder.
            rank: Its tensor- and expert-parallel rank.
            state: The stored tensors by name.
        """
        held = self.storage.placement(replace(placement, tp_rank=rank[0]), self.layout, rank[1])
        ignored = {rule.mcore for rule in self.ignored_rules}
        for expected in self._expected(held):
            stored = [name for name in expected.names if name in state]
            ignored.update(stored)
            if not stored and not expected.is_optional:
                self.missing.append(f"{folder}:{expected.name}{self._describe(expected.entry, held)}")
        others = [name for name in state if name not in ignored and "_extra_state" not in name]
        self.mtp += [f"{folder}:{name}" for name in others if name.startswith(_MTP_PREFIX)]
        self.unexpected += [
            f"{folder}:{name}{_describe_foreign(name, held, self.model)}"
            for name in others
            if not name.startswith(_MTP_PREFIX)
        ]

    def _expected(self, placement: Placement) -> Iterator[ExpectedName]:
        """Each tensor of a file once; grouped experts are one tensor."""
        local_of = {layer: local for local, layer in enumerate(placement.layers)}
        names: set[str] = set()
        for local_name, entry in local_entries(self.rules, self.model, placement):
            stored = self.storage.stored_name(local_name)
            if stored in names:
                continue
            names.add(stored)
            is_output = local_name == OUTPUT_LAYER
            aliases = () if is_output or entry.expert is not None else entry.mcore_names(local_of.get(entry.layer))
            is_optional = entry.rule.optional or (is_output and is_tied(self.model))
            yield ExpectedName(stored, (stored, *aliases), entry, is_optional)

    def _describe(self, entry: TensorEntry, placement: Placement) -> str:
        """Layer and experts of the model that a missing tensor holds."""
        if entry.expert is None:
            return ""
        if self.storage.form is not ExpertForm.GROUPED:
            return f" (expert {entry.expert} of layer {entry.layer})"
        experts = placement.experts(self.model.num_experts or 0)
        return f" (experts {experts.start} to {experts.stop - 1} of layer {entry.layer})"


def _describe_foreign(name: str, placement: Placement, model: ModelConfig) -> str:
    """Describe an expert that should not be in a file."""
    match = _LAYER.match(name)
    if match is None or ".mlp.experts." not in name or int(match[1]) >= len(placement.layers):
        return ""
    layer = placement.layers[int(match[1])]
    if layer is None or not model.is_moe_layer(layer):
        return f" (layer {layer} has no experts)"
    experts = placement.experts(model.num_experts or 0)
    return f" (layer {layer}; the file should hold its experts {experts.start} to {experts.stop - 1}, each once)"

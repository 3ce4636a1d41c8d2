"""The form of a rule table: each rule ties a Megatron tensor name to Hugging Face names and a kind.

Reading files is left to the sources, writing them to the writers; here are only names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.layouts import Kind
from mindspeed_dpo.weights.placement import Placement

OUTPUT_LAYER = "output_layer.weight"
SCORE_HEAD = "rm_head.weight"


@dataclass(frozen=True)
class Rule:
    """One tensor of a family.

    Attributes:
        mcore: Megatron's name; `{i}` is the layer, local to its chunk.
        hf: Hugging Face's names; `{g}` is the layer in the model. None where only Megatron has such a tensor.
        kind: How the tensors relate.
        where: The first or last chunk of the model, or every layer.
        aliases: Older or fused names under which Megatron checkpoints may hold the same tensor.
        optional: Zeros stand for the tensor where it is not stored.
    """

    mcore: str
    hf: tuple[str, ...]
    kind: Kind
    where: Literal["first", "layer", "last"] = "layer"
    aliases: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class Entry:
    """A rule for one global layer, or for a tensor outside the layers (`layer` is None)."""

    rule: Rule
    layer: int | None = None

    @property
    def hf_names(self) -> tuple[str, ...]:
        """The Hugging Face names."""
        return tuple(name.format(g=self.layer) for name in self.rule.hf)

    def mcore_names(self, local_layer: int | None) -> tuple[str, ...]:
        """Megatron's name first, then its aliases, with the index the layer has in its chunk."""
        return tuple(name.format(i=local_layer) for name in (self.rule.mcore, *self.rule.aliases))


RuleTable = tuple[Rule, ...]


def model_entries(rules: RuleTable, model: ModelConfig) -> Iterator[Entry]:
    """Every tensor of the whole model once, in Hugging Face's order."""
    yield from (Entry(rule) for rule in rules if rule.where == "first")
    for layer in range(model.num_layers):
        yield from (Entry(rule, layer) for rule in rules if rule.where == "layer")
    yield from (Entry(rule) for rule in _last(rules, model))


def local_entries(rules: RuleTable, model: ModelConfig, placement: Placement) -> Iterator[tuple[str, Entry]]:
    """The local Megatron name and the tensor, for everything a chunk holds.

    With tied embeddings the last of several stages holds a copy of the embedding as its output layer.
    """
    if placement.first:
        yield from ((rule.mcore, Entry(rule)) for rule in rules if rule.where == "first")
    for local, layer in enumerate(placement.layers):
        if layer is not None:
            yield from ((r.mcore.format(i=local), Entry(r, layer)) for r in rules if r.where == "layer")
    if placement.last:
        yield from ((rule.mcore, Entry(rule)) for rule in _last(rules, model))
        if is_tied(model) and not placement.first and _has_output_layer(rules):
            yield OUTPUT_LAYER, tied_entry(rules)


def is_tied(model: ModelConfig) -> bool:
    """Whether the output layer is the embedding."""
    return not model.untie_embeddings_and_output_weights


def tied_entry(rules: RuleTable) -> Entry:
    """The embedding, which serves as output layer where the two are tied."""
    return next(Entry(rule) for rule in rules if rule.where == "first")


def _has_output_layer(rules: RuleTable) -> bool:
    """Whether the model has a language-model head at all, tied or not."""
    return any(rule.mcore == OUTPUT_LAYER for rule in rules)


def _last(rules: RuleTable, model: ModelConfig) -> Iterator[Rule]:
    return (r for r in rules if r.where == "last" and not (is_tied(model) and r.mcore == OUTPUT_LAYER))

"""Rules that relate tensor names: one rule per tensor of a family, expanded here to the tensors of a model or a stage.

Only names and layouts: reading files is left to the sources, writing them to the writers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.layer_placement import Placement
from mindspeed_dpo.weights.tensor_layouts import TensorLayout

FINAL_NORM = "decoder.final_layernorm.weight"
OUTPUT_LAYER = "output_layer.weight"
SCORE_HEAD = "rm_head.weight"
_MCORE_LAYER = "decoder.layers.{i}."
_HF_LAYER = "model.layers.{g}."


@dataclass(frozen=True)
class TensorRule:
    """One tensor of a family: its name in Megatron, its names in Hugging Face, and how the two relate.

    `TensorRule("output_layer.weight", ("lm_head.weight",), VocabParallel(), where="last")` is the output layer. Rules
    of the decoder layers are made with `layer_rule`.

    Attributes:
        mcore: Megatron's name; `{i}` is the layer's index within its model chunk.
        hf: Hugging Face's names; `{g}` is the layer's index in the model. Empty where only Megatron has the tensor.
        layout: How the tensors relate.
        where: Part of the first chunk, of the last chunk, or of every layer.
        aliases: Older or fused names under which Megatron checkpoints may hold the same tensor.
        optional: Zeros replace the tensor where it is not stored.
        stored: The names under which a Hugging Face folder holds the tensor, if they are not `hf`.
    """

    mcore: str
    hf: tuple[str, ...]
    layout: TensorLayout
    where: Literal["first", "layer", "last"] = "layer"
    aliases: tuple[str, ...] = ()
    optional: bool = False
    stored: tuple[str, ...] = ()


RuleTable = tuple[TensorRule, ...]


def layer_rule(
    mcore: str, hf: str | tuple[str, ...], layout: TensorLayout, *, aliases: tuple[str, ...] = ()
) -> TensorRule:
    """A rule for a tensor of every decoder layer.

    Args:
        mcore: Megatron's name within the layer, such as `mlp.linear_fc1.weight`.
        hf: Hugging Face's name or names within the layer, in the order of the layout's slices.
        layout: How the tensors relate.
        aliases: Further Megatron names within the layer that are accepted in checkpoints.
    """
    names = (hf,) if isinstance(hf, str) else hf
    return TensorRule(
        _MCORE_LAYER + mcore,
        tuple(_HF_LAYER + name for name in names),
        layout,
        aliases=tuple(_MCORE_LAYER + alias for alias in aliases),
    )


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a model: a rule, and the global layer it is applied to (None outside the layers).

    For the query, key and value weights of layer 3, `hf_names` starts with `model.layers.3.self_attn.q_proj.weight`,
    and `mcore_names(1)` with `decoder.layers.1.self_attention.linear_qkv.weight`.
    """

    rule: TensorRule
    layer: int | None = None

    @property
    def layout(self) -> TensorLayout:
        """The layout that the rule declares."""
        return self.rule.layout

    @property
    def hf_names(self) -> tuple[str, ...]:
        """The tensor's names in Hugging Face folders."""
        return tuple(name.format(g=self.layer) for name in self.rule.hf)

    @property
    def stored_names(self) -> tuple[str, ...]:
        """The names under which the Hugging Face folder that is read holds the tensor."""
        return tuple(name.format(g=self.layer) for name in self.rule.stored or self.rule.hf)

    def mcore_names(self, local_layer: int | None) -> tuple[str, ...]:
        """Megatron's name followed by its aliases, for a layer of this index within its chunk."""
        return tuple(name.format(i=local_layer) for name in (self.rule.mcore, *self.rule.aliases))

    @property
    def global_name(self) -> str:
        """Megatron's name with the layer's index in the model."""
        return self.mcore_names(self.layer)[0]


def model_entries(rules: RuleTable, model: ModelConfig) -> Iterator[TensorEntry]:
    """Every tensor of a model once, in Hugging Face's order."""
    yield from (TensorEntry(rule) for rule in rules if rule.where == "first")
    for layer in range(model.num_layers):
        yield from (TensorEntry(rule, layer) for rule in rules if rule.where == "layer")
    yield from (TensorEntry(rule) for rule in _last_rules(rules, model))


def local_entries(rules: RuleTable, model: ModelConfig, placement: Placement) -> Iterator[tuple[str, TensorEntry]]:
    """Every tensor of a placement with its local Megatron name.

    With tied embeddings the last of several stages holds a copy of the embedding as its output layer.
    """
    if placement.pre_process:
        yield from ((rule.mcore, TensorEntry(rule)) for rule in rules if rule.where == "first")
    for local, layer in enumerate(placement.layers):
        if layer is not None:
            yield from ((r.mcore.format(i=local), TensorEntry(r, layer)) for r in rules if r.where == "layer")
    if placement.post_process:
        yield from ((rule.mcore, TensorEntry(rule)) for rule in _last_rules(rules, model))
        if is_tied(model) and not placement.pre_process and _has_output_layer(rules):
            yield OUTPUT_LAYER, embedding_entry(rules)


def is_tied(model: ModelConfig) -> bool:
    """Whether the output layer shares the weights of the embedding."""
    return not model.untie_embeddings_and_output_weights


def embedding_entry(rules: RuleTable) -> TensorEntry:
    """The embedding, which is also the output layer of a tied model."""
    return next(TensorEntry(rule) for rule in rules if rule.where == "first")


def _has_output_layer(rules: RuleTable) -> bool:
    """Whether this is a language model; reward models have no output layer."""
    return any(rule.mcore == OUTPUT_LAYER for rule in rules)


def _last_rules(rules: RuleTable, model: ModelConfig) -> Iterator[TensorRule]:
    return (r for r in rules if r.where == "last" and not (is_tied(model) and r.mcore == OUTPUT_LAYER))

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
Where = Literal["first", "layer", "dense_layer", "moe_layer", "expert", "last"]
_MCORE_LAYER = "decoder.layers.{i}."
_HF_LAYER = "model.layers.{g}."


@dataclass(frozen=True)
class TensorRule:
    """One tensor of a family: its name in Megatron, its names in Hugging Face, and how the two relate.

    `TensorRule("output_layer.weight", ("lm_head.weight",), VocabParallel(), where="last")` is the output layer. Rules
    of the decoder layers are made with `layer_rule`.

    Attributes:
        mcore: Megatron's name; `{i}` is the layer's index within its model chunk, `{j}` the expert's on its rank.
        hf: Hugging Face's names; `{g}` is the layer's index in the model, `{x}` the expert's. Empty where only Megatron
            has the tensor.
        layout: How the tensors relate.
        where: Part of the first chunk, of the last chunk, of every layer, of the layers without or with experts, or of
            every expert.
        aliases: Older or fused names under which Megatron checkpoints may hold the same tensor.
        optional: Zeros replace the tensor where it is not stored.
        stored: The names under which a Hugging Face folder holds the tensor, if they are not `hf`.
        requires: The flag of `ModelConfig` without which a model has no such tensor; "" for none.
    """

    mcore: str
    hf: tuple[str, ...]
    layout: TensorLayout
    where: Where = "layer"
    aliases: tuple[str, ...] = ()
    optional: bool = False
    stored: tuple[str, ...] = ()
    requires: str = ""


RuleTable = tuple[TensorRule, ...]


def layer_rule(
    mcore: str,
    hf: str | tuple[str, ...],
    layout: TensorLayout,
    *,
    where: Where = "layer",
    aliases: tuple[str, ...] = (),
    requires: str = "",
) -> TensorRule:
    """A rule for a tensor of the decoder layers.

    Args:
        mcore: Megatron's name within the layer, such as `mlp.linear_fc1.weight`.
        hf: Hugging Face's name or names within the layer, in the order of the layout's slices.
        layout: How the tensors relate.
        where: Which layers have it, or `expert` for a tensor of every expert.
        aliases: Further Megatron names within the layer that are accepted in checkpoints.
        requires: As in `TensorRule`.
    """
    names = (hf,) if isinstance(hf, str) else hf
    return TensorRule(
        _MCORE_LAYER + mcore,
        tuple(_HF_LAYER + name for name in names),
        layout,
        where=where,
        aliases=tuple(_MCORE_LAYER + alias for alias in aliases),
        requires=requires,
    )


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a model: a rule, and the global layer and expert it is applied to (None outside them).

    For the query, key and value weights of layer 3, `TensorEntry(rule, layer=3)`, `hf_names` starts with
    `model.layers.3.self_attn.q_proj.weight`, and `mcore_names(1)` with
    `decoder.layers.1.self_attention.linear_qkv.weight`.
    """

    rule: TensorRule
    layer: int | None = None
    expert: int | None = None

    @property
    def layout(self) -> TensorLayout:
        """The layout that the rule declares."""
        return self.rule.layout

    @property
    def hf_names(self) -> tuple[str, ...]:
        """The tensor's names in Hugging Face folders."""
        return tuple(name.format(g=self.layer, x=self.expert) for name in self.rule.hf)

    @property
    def stored_names(self) -> tuple[str, ...]:
        """The names under which the Hugging Face folder that is read holds the tensor."""
        return tuple(name.format(g=self.layer, x=self.expert) for name in self.rule.stored or self.rule.hf)

    def mcore_names(self, local_layer: int | None, local_expert: int | None = None) -> tuple[str, ...]:
        """Megatron's name and its aliases, for a layer's index in its chunk and an expert's on its rank."""
        names = (self.rule.mcore, *self.rule.aliases)
        return tuple(name.format(i=local_layer, j=local_expert) for name in names)

    def stacked_names(self) -> Iterator[tuple[str, dict[str, int]]]:
        """Names under which all layers, or all experts of a layer, may be stored as one tensor.

        Each comes with the indices of this tensor along the leading dims of the stored one, such as
        `("decoder.layers.mlp.experts.linear_fc1.weight", {"layers": 3, "experts": 17})` for expert 17 of layer 3.
        """
        experts = {} if self.expert is None else {"experts": self.expert}
        for name in self.mcore_names(self.layer, self.expert):
            of_layer = name.replace(f".local_experts.{self.expert}.", ".")
            if self.layer is not None:
                yield of_layer.replace(f".layers.{self.layer}.", ".layers."), {"layers": self.layer, **experts}
            yield of_layer, experts

    @property
    def global_name(self) -> str:
        """Megatron's name with the indices of layer and expert in the model."""
        return self.mcore_names(self.layer, self.expert)[0]


def model_entries(rules: RuleTable, model: ModelConfig) -> Iterator[TensorEntry]:
    """Every tensor of a model once, in Hugging Face's order."""
    yield from (TensorEntry(rule) for rule in rules if rule.where == "first")
    for layer in range(model.num_layers):
        yield from _layer_entries(rules, model, layer, range(model.num_experts or 0))
    yield from (TensorEntry(rule) for rule in _last_rules(rules, model))


def local_entries(rules: RuleTable, model: ModelConfig, placement: Placement) -> Iterator[tuple[str, TensorEntry]]:
    """Every tensor of a placement with its local Megatron name.

    With tied embeddings the last of several stages holds a copy of the embedding as its output layer.
    """
    experts = placement.experts(model.num_experts or 0)
    if placement.pre_process:
        yield from ((rule.mcore, TensorEntry(rule)) for rule in rules if rule.where == "first")
    for local, layer in enumerate(placement.layers):
        if layer is not None:
            for entry in _layer_entries(rules, model, layer, experts):
                local_expert = None if entry.expert is None else entry.expert - experts.start
                yield entry.mcore_names(local, local_expert)[0], entry
    if placement.post_process:
        yield from ((rule.mcore, TensorEntry(rule)) for rule in _last_rules(rules, model))
        if is_tied(model) and not placement.pre_process and _has_output_layer(rules):
            yield OUTPUT_LAYER, embedding_entry(rules)


def _layer_entries(rules: RuleTable, model: ModelConfig, layer: int, experts: range) -> Iterator[TensorEntry]:
    """The tensors of one layer, with those of the given experts if it has experts."""
    for rule in layer_rules(rules, model, layer):
        if rule.where == "expert":
            yield from (TensorEntry(rule, layer, expert) for expert in experts)
        else:
            yield TensorEntry(rule, layer)


def layer_rules(rules: RuleTable, model: ModelConfig, layer: int) -> Iterator[TensorRule]:
    """The rules of the tensors of one layer, by its index in the model."""
    kinds = {"layer", "moe_layer", "expert"} if model.is_moe_layer(layer) else {"layer", "dense_layer"}
    return (rule for rule in rules if rule.where in kinds and (not rule.requires or getattr(model, rule.requires)))


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

"""The forms in which PEFT stores adapters of routed experts, and the one form in which they are computed with.

With transformers 5 the matrices of all experts are one parameter, `gate_up_proj` [E, 2f, h] or `down_proj` [E, h, f],
and so are their adapters: A [E r, in], expert after expert, and B [out, r E], with the experts of a rank side by side.
PEFT wraps one parameter around the other, so `gate_up_proj` is stored as `base_layer` where both are adapted.
With transformers 4 every expert has three modules with adapters of their own. As in PEFT, those of gate and up become
one of twice the rank: their A one above the other, their B on the diagonal.

Letters: E experts, r rank, h hidden size, f width of an expert.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.lora import DOWN, GATE_UP
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.lora.targets import expert_parameter

_STACKED = re.compile(r"model\.layers\.(\d{1,5})\.mlp\.experts(\.base_layer)?\.(lora_[AB])\.weight")
_SINGLE = re.compile(
    r"model\.layers\.(\d{1,5})\.(?:mlp|block_sparse_moe)\.experts\.(\d{1,5})\.(\w{1,20})\.(lora_[AB])\.weight"
)
_MATRICES = {"w1": "gate_proj", "w2": DOWN, "w3": "up_proj"}
"""Mixtral's names of the matrices."""
_PARAMETER = re.compile(rf"model\.layers\.(\d+)\.mlp\.experts\.({GATE_UP}|{DOWN})\.(lora_[AB])\.weight")
Key = tuple[int, str, str]
"""Layer, parameter or matrix, factor."""


def is_of_experts(name: str) -> bool:
    """Whether a name of PEFT, without its prefix, is of an adapter of routed experts."""
    return bool(_STACKED.fullmatch(name) or _SINGLE.fullmatch(name))


def from_peft(tensors: Mapping[str, Tensor], ranks: Mapping[str, int], parameters: Iterable[str]) -> dict[str, Tensor]:
    """Convert stored adapters of experts to A [E, r, in] and B [E, out, r] by the name of the parameter.

    Args:
        tensors: PEFT's tensors by name without prefix, two-dimensional and of any dtype.
        ranks: Rank of an adapter of `gate_up_proj` and of `down_proj`.
        parameters: `target_parameters` of the configuration, which tell what a single parameter is.

    Raises:
        WeightsError: Tensors are missing, or their shapes do not fit the ranks.
    """
    stacked, single = _sorted(tensors, parameters)
    converted = {key: _unflatten(key, tensor, ranks[key[1]]) for key, tensor in stacked.items()}
    converted |= _joined(single)
    return {f"{expert_parameter(layer, name)}.{factor}.weight": t for (layer, name, factor), t in converted.items()}


def to_peft(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert adapters of experts to the form of transformers 5, the inverse of `from_peft`; others are left alone.

    Args:
        tensors: A [E, r, in] and B [E, out, r] of any dtype, by the name of the parameter, and other tensors.
    """
    matches = {name: match for name in tensors if (match := _PARAMETER.fullmatch(name))}
    # The parameter that is wrapped second has the plain name.
    both = {match[2] for match in matches.values()} == {GATE_UP, DOWN}
    written = {}
    for name, tensor in tensors.items():
        match = matches.get(name)
        if match is None:
            written[name] = tensor
            continue
        inner = ".base_layer" if both and match[2] == GATE_UP else ""
        flat = tensor.flatten(0, 1) if match[3] == "lora_A" else tensor.permute(1, 2, 0).flatten(1)
        written[f"model.layers.{match[1]}.mlp.experts{inner}.{match[3]}.weight"] = flat
    return written


def _sorted(
    tensors: Mapping[str, Tensor], parameters: Iterable[str]
) -> tuple[dict[Key, Tensor], dict[Key, dict[int, Tensor]]]:
    """The tensors of all experts by parameter, and those of single experts by matrix."""
    ends = {name.rsplit(".", 1)[-1] for name in parameters}
    outer = GATE_UP if GATE_UP in ends and DOWN not in ends else DOWN
    stacked: dict[Key, Tensor] = {}
    single: dict[Key, dict[int, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if match := _STACKED.fullmatch(name):
            stacked[int(match[1]), GATE_UP if match[2] else outer, match[3]] = tensor
        elif match := _SINGLE.fullmatch(name):
            matrix = _MATRICES.get(match[3], match[3])
            if matrix not in ("gate_proj", "up_proj", DOWN):
                raise WeightsError(f"{name}: an adapter of {match[3]} is not supported")
            single[int(match[1]), matrix, match[4]][int(match[2])] = tensor
    return stacked, single


def _unflatten(key: Key, tensor: Tensor, rank: int) -> Tensor:
    """A [E r, in] or B [out, r E] of all experts as [E, r, in] or [E, out, r]."""
    dim = 0 if key[2] == "lora_A" else 1
    if tensor.dim() != 2 or not tensor.numel() or tensor.shape[dim] % rank:
        raise WeightsError(
            f"the {key[2]} of {expert_parameter(key[0], key[1])} is {list(tensor.shape)}, which does not hold experts "
            f"of rank {rank}"
        )
    return tensor.unflatten(0, (-1, rank)) if dim == 0 else tensor.unflatten(1, (rank, -1)).permute(2, 0, 1)


def _joined(single: Mapping[Key, Mapping[int, Tensor]]) -> dict[Key, Tensor]:
    """Adapters of single experts as those of all, gate and up together."""
    stacks = {key: _stack(key, of_experts) for key, of_experts in single.items()}
    joined = {key: tensor for key, tensor in stacks.items() if key[1] == DOWN}
    for layer, matrix, factor in stacks:
        if matrix == DOWN:
            continue
        other = (layer, "up_proj" if matrix == "gate_proj" else "gate_proj", factor)
        if other not in stacks:
            raise WeightsError(
                f"layer {layer} has adapters of {matrix} of experts but none of {other[1]}; only both together are "
                "supported, as by PEFT with transformers 5"
            )
        gate, up = (stacks[layer, name, factor] for name in ("gate_proj", "up_proj"))
        if gate.shape != up.shape:
            raise WeightsError(f"layer {layer}: {factor} of gate_proj and up_proj of experts differ in shape")
        if factor == "lora_A":
            joined[layer, GATE_UP, factor] = torch.cat((gate, up), dim=1)
        else:
            diagonal = [torch.block_diag(*pair) for pair in zip(gate, up, strict=True)]
            joined[layer, GATE_UP, factor] = torch.stack(diagonal)
    return joined


def _stack(key: Key, of_experts: Mapping[int, Tensor]) -> Tensor:
    """The tensors of all experts, which must have the same shape, in the order of the experts."""
    missing = set(range(max(of_experts) + 1)) - of_experts.keys()
    shapes = {tensor.shape for tensor in of_experts.values()}
    if missing or len(shapes) > 1 or any(len(shape) != 2 for shape in shapes):
        problem = f"has no adapter of expert {min(missing)}" if missing else "has adapters of several shapes"
        raise WeightsError(f"layer {key[0]} {problem} in {key[2]} of {key[1]}; all experts must have the same")
    return torch.stack([of_experts[expert] for expert in range(len(of_experts))])

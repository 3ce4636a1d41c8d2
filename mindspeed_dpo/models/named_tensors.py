"""The tensors of a model under the names that weights have on disk: one for each expert, and stored buffers."""

from __future__ import annotations

from torch import Tensor, nn

from mindspeed_dpo.models.moe.grouped_experts import GroupedLinear


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and stored buffers by Megatron's local name, each in its own dtype.

    The matrices of the experts, one parameter [g, out, in] for the g experts of a rank, are views [out, in], one for
    each expert: `mlp.experts.local_experts.{j}.linear_fc1.weight`.

    Args:
        model: A pipeline stage.
    """
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    stored = model.state_dict(keep_vars=True)
    tensors |= {name: buffer for name, buffer in model.named_buffers() if name in stored}
    for name, module in model.named_modules():
        if isinstance(module, GroupedLinear):
            del tensors[f"{name}.weight"]
            tensors |= {
                expert_name(name, index): matrix for index, matrix in enumerate(module.weight.detach().unbind(0))
            }
    return tensors


def expert_name(module: str, index: int) -> str:
    """Return the name of one expert's matrix, by its index on the rank, from the name of the module that holds it."""
    block, _, linear = module.rpartition(".")
    return f"{block}.local_experts.{index}.{linear}.weight"

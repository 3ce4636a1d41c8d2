"""The router: scores of all experts for each token, and the choice of those that compute it.

Letters: t tokens of this rank, h hidden size, E experts, k experts of a token.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mindspeed_dpo.config.settings.model import ModelConfig

_EPSILON = 1e-20


class Routing(NamedTuple):
    """Experts of t tokens.

    Example: one token computed by experts 2 and 0 of three.

        Routing(
            weights=tensor([[0.73, 0.27]]), experts=tensor([[2, 0]]), logits=tensor([[1.0, 0.0, 2.0]])
        )

    Attributes:
        weights: [t, k] float32 factors of the experts' outputs, with gradient.
        experts: [t, k] int64 indices of the experts.
        logits: [t, E] float32 logits of all experts, with gradient.
    """

    weights: Tensor
    experts: Tensor
    logits: Tensor


class Router(nn.Module):
    """A linear layer whose outputs choose and weigh the experts of a token.

    With sequence parallelism each tensor-parallel rank routes its own rows, so the gradient of the weight is summed
    over them, as for norms. The bias, which only affects the choice, is not trained.

    Attributes:
        weight: [E, h] parameter.
        expert_bias: [E] float32 buffer; None without one.
    """

    expert_bias: Tensor | None

    def __init__(self, config: Any, model: ModelConfig) -> None:
        """Create the parameters, uninitialised unless `config.perform_initialization`."""
        super().__init__()
        self.model = model
        device = "cpu" if config.use_cpu_initialization else torch.cuda.current_device()
        weight = torch.empty(model.num_experts or 0, model.hidden_size, dtype=config.params_dtype, device=device)
        if config.perform_initialization:
            weight.normal_(0.0, config.init_method_std)
        self.weight = nn.Parameter(weight)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        bias = None
        if model.moe_router_enable_expert_bias:
            bias = torch.zeros(len(weight), dtype=torch.float32, device=device)
        self.register_buffer("expert_bias", bias)

    def forward(self, rows: Tensor) -> Routing:
        """Route activations [t, h] of any float dtype; computed in float32."""
        return route(router_logits(rows, self.weight), self.model, self.expert_bias)


def router_logits(rows: Tensor, weight: Tensor) -> Tensor:
    """Compute the logits [t, E] of activations [t, h] of any float dtype with the weight [E, h], in float32."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    return rows.to(wide) @ weight.to(wide).t()


def route(logits: Tensor, model: ModelConfig, bias: Tensor | None = None) -> Routing:
    """Choose the experts of each token.

    Scores are softmax or sigmoid of the logits. The k best by score plus bias are chosen, within the best groups where
    there are several (equations 12 to 16 of arXiv:2412.19437). Their scores, divided by their sum with
    `norm_topk_prob`, times a factor, are the weights.

    Args:
        logits: [t, E] float32.
        model: The rule.
        bias: [E] float32 added to the scores for the choice only, or None.
    """
    scores = scores_of(logits, model)
    choice = scores.detach() if bias is None else scores.detach() + bias
    if model.moe_router_num_groups > 1:
        choice = _within_best_groups(choice, model)
    experts = choice.topk(model.moe_router_topk, dim=-1).indices
    weights = scores.gather(1, experts)
    if model.norm_topk_prob:
        weights = weights / (weights.sum(-1, keepdim=True) + _EPSILON)
    if model.moe_router_topk_scaling_factor != 1:
        weights = weights * model.moe_router_topk_scaling_factor
    return Routing(weights, experts, logits)


def scores_of(logits: Tensor, model: ModelConfig) -> Tensor:
    """Return the scores [t, E] float32 of logits [t, E]."""
    return logits.sigmoid() if model.moe_router_score_function == "sigmoid" else logits.softmax(-1)


def _within_best_groups(choice: Tensor, model: ModelConfig) -> Tensor:
    """Exclude experts outside the best groups: by the two best experts with sigmoid scores, else by the best one."""
    groups = choice.unflatten(1, (model.moe_router_num_groups, -1))
    num_best = 2 if model.moe_router_score_function == "sigmoid" else 1
    best = groups.topk(num_best, dim=-1).values.sum(-1).topk(model.moe_router_group_topk, dim=-1).indices
    excluded = torch.ones(groups.shape[:2], dtype=torch.bool, device=choice.device).scatter_(1, best, False)
    return groups.masked_fill(excluded[:, :, None], float("-inf")).flatten(1)

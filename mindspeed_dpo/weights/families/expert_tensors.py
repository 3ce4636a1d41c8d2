"""The tensors of layers with experts, from which the families with experts are put together."""

from __future__ import annotations

from mindspeed_dpo.weights.expert_layouts import ExpertDown, ExpertGateUp
from mindspeed_dpo.weights.families.llama import MLP_NORM_RULES
from mindspeed_dpo.weights.model_sizes import hidden_size, moe_ffn_hidden_size, num_experts, shared_expert_size
from mindspeed_dpo.weights.name_mapping import RuleTable, layer_rule
from mindspeed_dpo.weights.tensor_layouts import GateUp, Matrix, Replicated, RowParallel

ROUTER, EXPERT_BIAS = "mlp.router.weight", "mlp.router.expert_bias"
EXPERT_FC1 = "mlp.experts.local_experts.{j}.linear_fc1.weight"
EXPERT_FC2 = "mlp.experts.local_experts.{j}.linear_fc2.weight"


def routed_expert_rules(block: str, *, gate: str, up: str, down: str) -> RuleTable:
    """The rules of the norm before the experts, the router, and the routed experts.

    Args:
        block: Hugging Face's name of the module with router and experts, such as `mlp`.
        gate: Its name of the gate matrix of an expert.
        up: Its name of the up matrix.
        down: Its name of the down matrix.
    """
    expert = block + ".experts.{x}."
    return (
        *MLP_NORM_RULES,
        layer_rule(ROUTER, f"{block}.gate.weight", Matrix(num_experts, hidden_size), where="moe_layer"),
        layer_rule(
            EXPERT_FC1,
            (f"{expert}{gate}.weight", f"{expert}{up}.weight"),
            ExpertGateUp(moe_ffn_hidden_size),
            where="expert",
        ),
        layer_rule(EXPERT_FC2, f"{expert}{down}.weight", ExpertDown(hidden_size, moe_ffn_hidden_size), where="expert"),
    )


def shared_expert_rules(module: str) -> RuleTable:
    """The rules of the shared experts, which are one feed-forward layer.

    Args:
        module: Hugging Face's name of that layer within the block, such as `shared_experts`.
    """
    return (
        layer_rule(
            "mlp.shared_experts.linear_fc1.weight",
            (f"mlp.{module}.gate_proj.weight", f"mlp.{module}.up_proj.weight"),
            GateUp(shared_expert_size),
            where="moe_layer",
        ),
        layer_rule(
            "mlp.shared_experts.linear_fc2.weight",
            f"mlp.{module}.down_proj.weight",
            RowParallel(hidden_size, shared_expert_size),
            where="moe_layer",
        ),
    )


EXPERT_BIAS_RULES: RuleTable = (
    layer_rule(
        EXPERT_BIAS,
        "mlp.gate.e_score_correction_bias",
        Replicated(num_experts),
        where="moe_layer",
        requires="moe_router_enable_expert_bias",
    ),
)
QWEN_EXPERT_RULES = routed_expert_rules("mlp", gate="gate_proj", up="up_proj", down="down_proj")

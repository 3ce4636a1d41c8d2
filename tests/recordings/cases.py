"""What is recorded: the settings of every case, as they are given to TRL.

A case changes only what is said of it here; the values in effect stand in its file.
"""

from __future__ import annotations

from typing import Any

HYPERPARAMETERS: dict[str, Any] = {
    "lr": 1e-3, "schedule": "linear", "warmup_steps": 2, "max_steps": 10, "batch_size": 2, "accumulation": 2,
    "max_grad_norm": 1.0, "weight_decay": 0.01, "betas": [0.9, 0.999], "eps": 1e-8,
}  # fmt: skip
"""Unless a case changes it: `batch_size` counts the pairs of a micro-batch, `accumulation` micro-batches of a step."""
MAX_LENGTH = 64
"""Tokens of a sequence; what is longer is cut at its end."""
LOSS: dict[str, Any] = {
    "loss_type": ["sigmoid"], "loss_weights": None, "beta": 0.1, "label_smoothing": 0.0,
    "f_divergence_type": "reverse_kl", "f_alpha_divergence_coef": 0.5, "ld_alpha": None, "use_weighting": False,
    "discopop_tau": 0.05, "precompute_ref_log_probs": False,
}  # fmt: skip
"""Settings of the loss where a case does not say otherwise, by their names in TRL's DPOConfig."""
_ONE_PAIR: dict[str, Any] = {"hp": {"batch_size": 1, "accumulation": 4}}
"""The balance loss of the routers depends on which pairs share a micro-batch."""
CASES: dict[str, dict[str, Any]] = {
    "sigmoid": {},
    "sigmoid_ls_ignored": {"label_smoothing": 0.2},
    "sigmoid_conversational": {"data": "conversational"},
    "sigmoid_precompute": {"precompute_ref_log_probs": True},
    "sigmoid_trunc": {"max_length": 24},
    "hinge": {"loss_type": ["hinge"]},
    "ipo": {"loss_type": ["ipo"]},
    "sigmoid_norm": {"loss_type": ["sigmoid_norm"], "beta": 2.0},
    "exo_pair": {"loss_type": ["exo_pair"], "label_smoothing": 1e-3},
    "nca_pair": {"loss_type": ["nca_pair"]},
    "robust": {"loss_type": ["robust"], "label_smoothing": 0.1},
    "bco_pair": {"loss_type": ["bco_pair"]},
    "sppo_hard": {"loss_type": ["sppo_hard"]},
    "aot": {"loss_type": ["aot"], "label_smoothing": 0.1},
    "aot_unpaired": {"loss_type": ["aot_unpaired"]},
    "apo_zero": {"loss_type": ["apo_zero"]},
    "apo_down": {"loss_type": ["apo_down"]},
    "discopop": {"loss_type": ["discopop"]},
    "sft": {"loss_type": ["sft"]},
    "mpo": {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
    "rpo_equiv": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]},
    "ld_dpo": {"ld_alpha": 0.5},
    "wpo": {"use_weighting": True},
    "f_forward_kl": {"f_divergence_type": "forward_kl"},
    "f_js": {"f_divergence_type": "js_divergence"},
    "f_js_ipo": {"loss_type": ["ipo"], "f_divergence_type": "js_divergence"},
    "f_alpha": {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5},
    "qwen3_moe": {**_ONE_PAIR, "model": "qwen3_moe", "router_aux_loss_coef": 0.0},
    "qwen3_moe_aux": {**_ONE_PAIR, "model": "qwen3_moe", "router_aux_loss_coef": 0.01},
    "mixtral": {**_ONE_PAIR, "model": "mixtral", "router_aux_loss_coef": 0.0},
    "mixtral_aux": {**_ONE_PAIR, "model": "mixtral", "router_aux_loss_coef": 0.01},
}
"""What a case changes. `model` names a folder with policy and reference; without it they are the Llama."""
EXPERT_CASES = tuple(name for name, case in CASES.items() if "model" in case)
"""Cases of models with experts, in the layouts of such models."""
WITH_FINAL_WEIGHTS = ("sigmoid", "ipo", "sft", "wpo", "ld_dpo", "qwen3_moe_aux", "mixtral_aux")
"""Cases whose final weights are stored; of the others only how far they moved."""


def settings(case: str) -> dict[str, Any]:
    """All settings of a case."""
    changes = dict(CASES[case])
    data, max_length = changes.pop("data", "preferences"), changes.pop("max_length", MAX_LENGTH)
    model, hyper = {"model": changes.pop("model")} if "model" in changes else {}, changes.pop("hp", {})
    loss = {**LOSS, **changes}
    loss["loss_weights"] = loss["loss_weights"] or [1.0] * len(loss["loss_type"])
    return {"data": f"{data}.jsonl", "max_length": max_length, "options": loss, "hp": HYPERPARAMETERS | hyper, **model}

"""Any tree of valid values composes and comes back; any one bad value in it is one problem naming it."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mindspeed_dpo.config.settings.registry import SETTINGS
from tests.unit.config.small_config import Tree, problems, put, resolved, small_tree
from tests.unit.config.test_config_values import BAD

_FLOATS = {
    "lr": (0.0, 1.0), "weight_decay": (0.0, 10.0), "clip_grad": (0.0, 10.0), "adam_beta1": (0.0, 0.99),
    "adam_beta2": (0.0, 0.99), "adam_eps": (1e-12, 1.0), "dpo_beta": (0.01, 5.0), "pref_ftx": (0.0, 2.0),
    "norm_epsilon": (1e-9, 0.1), "rotary_base": (10.0, 1e7), "init_method_std": (0.001, 1.0), "ld_alpha": (0.0, 1.0),
}  # fmt: skip
_COUNTS = ("train_iters", "log_interval", "save_interval", "seed", "seq_length", "distributed_timeout_minutes")
_FLAGS = (
    "bf16", "tensorboard", "log_token_statistics", "no_shuffle", "share_prompt", "use_deter_comp",
    "overlap_grad_reduce", "no_save_optim", "no_save_rng", "untie_embeddings_and_output_weights", "qk_layernorm",
)  # fmt: skip
_CHOICES = {key: SETTINGS[key].info.choices for key in ("lr_decay_style", "truncation", "reference")}
_LOSSES: list[dict[str, Any]] = [
    {"dpo_loss_type": "hinge"},
    {"dpo_loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5], "dpo_label_smoothing": 0.2},
    {"dpo_loss_type": "ipo", "ipo_normalize": False, "f_divergence_type": "js_divergence"},
    {"dpo_loss_type": "aot", "loss_group_size": 2},
    {"dpo_loss_type": ["simpo", "sft"], "gamma_beta_ratio": 0.5, "reference": "cached"},
    {"dpo_loss_type": "discopop", "discopop_tau": 0.3, "use_weighting": True},
    {"beta_dpo_alpha": 0.6, "beta_dpo_momentum": 0.5, "dpo_beta_style": "linear", "dpo_beta_end": 0.5},
]
_LAYOUTS = [(tp, pp, dp) for tp in (1, 2) for pp in (1, 2, 4) for dp in (1, 2, 3)]


@st.composite
def valid_values(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """Keys with values that fit together, and the number of processes."""
    tp, pp, dp = draw(st.sampled_from(_LAYOUTS))
    micro, times = draw(st.integers(1, 4)), draw(st.sampled_from([2, 4]))
    always: dict[str, Any] = {
        "tensor_model_parallel_size": tp, "pipeline_model_parallel_size": pp, "micro_batch_size": micro,
        "global_batch_size": micro * times * dp, **draw(st.sampled_from([{}, *_LOSSES])),
    }  # fmt: skip
    if pp == 2 and draw(st.booleans()):
        always["num_layers_per_virtual_pipeline_stage"] = 1
    optional = {
        **{key: st.floats(low, high, allow_subnormal=False) for key, (low, high) in _FLOATS.items()},
        **{key: st.integers(2, 200) for key in _COUNTS},
        **{key: st.booleans() for key in _FLAGS},
        **{key: st.sampled_from(choices) for key, choices in _CHOICES.items()},
    }
    chosen = draw(st.sets(st.sampled_from(sorted(optional))))
    # What a loss needs beside it is not drawn again.
    return {**{key: draw(optional[key]) for key in sorted(chosen)}, **always}, tp * pp * dp


def tree_of(values: dict[str, Any], processes: int) -> Tree:
    tree = small_tree()
    for key, value in values.items():
        put(tree, key, value)
    tree["resource_pool"] = {"actor_rollout": [processes]}
    return tree


@settings(max_examples=60, deadline=None)
@given(valid_values())
def test_valid_values_compose_arrive_and_come_back(drawn: tuple[dict[str, Any], int]) -> None:
    values, processes = drawn
    run = resolved(tree_of(values, processes))
    actual = {**vars(run.loop), **run.actor.settings()}
    listed = {
        key: (value,) if key == "dpo_loss_type" and isinstance(value, str) else value for key, value in values.items()
    }
    assert {key: actual[key] for key in values} == {
        key: tuple(value) if isinstance(value, list) else value for key, value in listed.items()
    }
    assert resolved(yaml.safe_load(run.as_yaml())) == run


@settings(max_examples=120, deadline=None)
@given(valid_values(), st.sampled_from(BAD))
def test_one_bad_value_among_valid_ones_is_one_problem(drawn: tuple[dict[str, Any], int], bad: tuple[str, Any]) -> None:
    values, processes = drawn
    key, value = bad
    actual = problems(put(tree_of(values, processes), key, value))
    assert len(actual) == 1, (actual, values)
    assert f".{key}=" in actual[0]

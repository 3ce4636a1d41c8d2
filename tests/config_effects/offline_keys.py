"""Keys whose effect is observed in a short offline run: one process, three steps of four pairs."""

from __future__ import annotations

from tests.config_effects.comparison import CoveredBy, KeyChange

LEARNING: dict[str, KeyChange | CoveredBy] = {
    "lr": KeyChange(1e-3, "learning_rate"),
    "min_lr": KeyChange(5e-3, "learning_rate"),
    "lr_decay_style": KeyChange("constant", "learning_rate"),
    "lr_warmup_fraction": KeyChange(0.5, "learning_rate"),
    "lr_warmup_iters": KeyChange(2, "learning_rate"),
    "lr_decay_iters": KeyChange(10, "learning_rate"),
    "weight_decay": KeyChange(5.0),
    "clip_grad": KeyChange(1e-4, context={"adam_eps": 1.0}),
    "adam_beta1": KeyChange(0.1),
    "adam_beta2": KeyChange(0.1),
    "adam_eps": KeyChange(1.0),
    "seed": KeyChange(7, "logps/chosen"),
    "train_iters": KeyChange(2, "learning_rate"),
    "global_batch_size": KeyChange(2, "consumed_samples"),
    "init_method_std": KeyChange(0.2, "logps/chosen"),
}

LOSS: dict[str, KeyChange | CoveredBy] = {
    "dpo_loss_type": KeyChange("hinge"),
    "loss_weights": KeyChange([1, 3], context={"dpo_loss_type": ["sigmoid", "bco_pair"]}),
    "dpo_beta": KeyChange(0.5, "rewards/margins"),
    "dpo_beta_end": KeyChange(0.5, "beta", {"dpo_beta_style": "linear", "dpo_beta_end": 0.2}),
    "dpo_beta_style": KeyChange("cosine", "beta", {"dpo_beta_style": "linear", "dpo_beta_end": 0.5, "train_iters": 4}),
    "beta_dpo_alpha": KeyChange(0.6, "beta"),
    "beta_dpo_selection_ratio": KeyChange(0.5, "loss"),
    "beta_dpo_momentum": KeyChange(0.1, "beta", {"beta_dpo_alpha": 0.6}),
    "dpo_label_smoothing": KeyChange(0.2),
    "ipo_normalize": KeyChange(False, context={"dpo_loss_type": "ipo"}),
    "discopop_tau": KeyChange(0.5, context={"dpo_loss_type": "discopop"}),
    "gamma_beta_ratio": KeyChange(0.5, context={"dpo_loss_type": "simpo"}),
    "cpo_alpha": KeyChange(0.5, context={"dpo_loss_type": "cpo"}),
    "f_divergence_type": KeyChange("forward_kl"),
    "f_alpha_divergence_coef": KeyChange(0.1, context={"f_divergence_type": "alpha_divergence"}),
    "ld_alpha": KeyChange(0.2, "logps/chosen"),
    "use_weighting": KeyChange(True),
    "loss_group_size": KeyChange(2, context={"dpo_loss_type": "sft"}),
    "margin_column": KeyChange("gap", context={"data_path": "numbers"}),
    "margin_scale": KeyChange(2.0, context={"data_path": "numbers", "margin_column": "gap"}),
    "weight_column": KeyChange("trust", context={"data_path": "numbers"}),
    "pref_ftx": KeyChange(0.5),
    "rm_label_smoothing": KeyChange(0.2, context={"stage": "rm"}),
    "center_rewards_coefficient": KeyChange(0.2, context={"stage": "rm"}),
    "ref_model_mixup_alpha": KeyChange(
        1.0, context={"reference": "live", "sync_ref_model": True, "ref_model_sync_steps": 1, "train_iters": 4}
    ),
    "ref_model_sync_steps": KeyChange(
        2, context={"reference": "live", "sync_ref_model": True, "ref_model_sync_steps": 1, "train_iters": 4}
    ),
}

DATA: dict[str, KeyChange | CoveredBy] = {
    "data_path": KeyChange("others", "logps/chosen"),
    "seq_length": KeyChange(4, "logps/chosen", {"truncation": "keep_start", "seq_length": 64}),
    "truncation": KeyChange("keep_start", "num_tokens", {"seq_length": 5}),
    "no_shuffle": KeyChange(True, "logps/chosen"),
    "split": KeyChange("80,20,0", "epoch", {"split": "100,0,0"}),
    "log_token_statistics": KeyChange(False, "entropy", {"log_token_statistics": True}),
    "share_prompt": KeyChange(False, "tokens_computed"),
    "pad_to_multiple_of": KeyChange(8, "tokens_computed"),
    "bf16": KeyChange(True, "logps/chosen"),
    "rotary_base": KeyChange(100.0, "logps/chosen"),
    "norm_epsilon": KeyChange(0.1, "logps/chosen"),
    "num_layers": KeyChange(1, "logps/chosen"),
    "ffn_hidden_size": KeyChange(64, "logps/chosen"),
    "num_query_groups": KeyChange(1, "logps/chosen"),
    "num_attention_heads": KeyChange(2, "logps/chosen"),
    "kv_channels": KeyChange(32, "logps/chosen"),
    "hidden_size": KeyChange(32, "logps/chosen"),
    "vocab_size": KeyChange(300, "logps/chosen"),
    "qk_layernorm": KeyChange(True, "logps/chosen"),
    "untie_embeddings_and_output_weights": KeyChange(
        False, "logps/chosen", {"untie_embeddings_and_output_weights": True}
    ),
}

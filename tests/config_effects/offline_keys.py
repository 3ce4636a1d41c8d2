"""Keys seen in a short offline run, one process, three steps of four pairs."""

from __future__ import annotations

from tests.config_effects.comparison import Shown, Turn

LEARNING: dict[str, Turn | Shown] = {
    "lr": Turn(1e-3, "learning_rate"),
    "min_lr": Turn(5e-3, "learning_rate"),
    "lr_decay_style": Turn("constant", "learning_rate"),
    "lr_warmup_fraction": Turn(0.5, "learning_rate"),
    "lr_warmup_iters": Turn(2, "learning_rate"),
    "lr_decay_iters": Turn(10, "learning_rate"),
    "weight_decay": Turn(5.0),
    "clip_grad": Turn(1e-4, beside={"adam_eps": 1.0}),
    "adam_beta1": Turn(0.1),
    "adam_beta2": Turn(0.1),
    "adam_eps": Turn(1.0),
    "seed": Turn(7, "logps/chosen"),
    "train_iters": Turn(2, "learning_rate"),
    "global_batch_size": Turn(2, "consumed_samples"),
    "init_method_std": Turn(0.2, "logps/chosen"),
}

LOSS: dict[str, Turn | Shown] = {
    "dpo_loss_type": Turn("hinge"),
    "loss_weights": Turn([1, 3], beside={"dpo_loss_type": ["sigmoid", "bco_pair"]}),
    "dpo_beta": Turn(0.5, "rewards/margins"),
    "dpo_beta_end": Turn(0.5, "beta", {"dpo_beta_style": "linear", "dpo_beta_end": 0.2}),
    "dpo_beta_style": Turn("cosine", "beta", {"dpo_beta_style": "linear", "dpo_beta_end": 0.5, "train_iters": 4}),
    "beta_dpo_alpha": Turn(0.6, "beta"),
    "beta_dpo_momentum": Turn(0.1, "beta", {"beta_dpo_alpha": 0.6}),
    "dpo_label_smoothing": Turn(0.2),
    "ipo_normalize": Turn(False, beside={"dpo_loss_type": "ipo"}),
    "discopop_tau": Turn(0.5, beside={"dpo_loss_type": "discopop"}),
    "gamma_beta_ratio": Turn(0.5, beside={"dpo_loss_type": "simpo"}),
    "cpo_alpha": Turn(0.5, beside={"dpo_loss_type": "cpo"}),
    "f_divergence_type": Turn("forward_kl"),
    "f_alpha_divergence_coef": Turn(0.1, beside={"f_divergence_type": "alpha_divergence"}),
    "ld_alpha": Turn(0.2, "logps/chosen"),
    "use_weighting": Turn(True),
    "loss_group_size": Turn(2, beside={"dpo_loss_type": "sft"}),
    "margin_column": Turn("gap", beside={"data_path": "numbers"}),
    "weight_column": Turn("trust", beside={"data_path": "numbers"}),
    "pref_ftx": Turn(0.5),
    "ref_model_mixup_alpha": Turn(
        1.0, beside={"reference": "live", "sync_ref_model": True, "ref_model_sync_steps": 1, "train_iters": 4}
    ),
    "ref_model_sync_steps": Turn(
        2, beside={"reference": "live", "sync_ref_model": True, "ref_model_sync_steps": 1, "train_iters": 4}
    ),
}

DATA: dict[str, Turn | Shown] = {
    "data_path": Turn("others", "logps/chosen"),
    "seq_length": Turn(4, "logps/chosen", {"truncation": "keep_start", "seq_length": 64}),
    "truncation": Turn("keep_start", "num_tokens", {"seq_length": 5}),
    "no_shuffle": Turn(True, "logps/chosen"),
    "split": Turn("80,20,0", "epoch", {"split": "100,0,0"}),
    "log_token_statistics": Turn(False, "entropy", {"log_token_statistics": True}),
    "share_prompt": Turn(False, "tokens_computed"),
    "pad_to_multiple_of": Turn(8, "tokens_computed"),
    "bf16": Turn(True, "logps/chosen"),
    "rotary_base": Turn(100.0, "logps/chosen"),
    "norm_epsilon": Turn(0.1, "logps/chosen"),
    "num_layers": Turn(1, "logps/chosen"),
    "ffn_hidden_size": Turn(64, "logps/chosen"),
    "num_query_groups": Turn(1, "logps/chosen"),
    "num_attention_heads": Turn(2, "logps/chosen"),
    "kv_channels": Turn(32, "logps/chosen"),
    "hidden_size": Turn(32, "logps/chosen"),
    "vocab_size": Turn(300, "logps/chosen"),
    "qk_layernorm": Turn(True, "logps/chosen"),
    "untie_embeddings_and_output_weights": Turn(False, "logps/chosen", {"untie_embeddings_and_output_weights": True}),
}

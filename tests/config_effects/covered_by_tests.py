"""Keys that another test covers, and which test that is."""

from __future__ import annotations

from tests.config_effects.comparison import CoveredBy

_CONFIG, _ROTARY = "unit/config", "unit/models/test_rotary.py"
_FREQUENCIES = CoveredBy(f"{_ROTARY}::test_frequencies_equal_those_of_transformers_for_any_settings")
_EXPERTS = CoveredBy(f"{_CONFIG}/test_config_experts.py::test_a_contradiction_is_one_problem")
_SPELLINGS = CoveredBy(f"{_CONFIG}/test_config_experts.py::test_the_spellings_of_mindspeed_mean_the_same")
_ROUTER_LOSSES = CoveredBy(
    "distributed/test_experts_against_hf.py::test_losses_of_routers_add_the_gradient_of_each_sequence"
)
_RESUME = "unit/trainers/test_resume.py"
_COMMANDS = "end_to_end/test_commands_refuse_bad_runs.py"
_OPTIONS = CoveredBy("distributed/test_recorded_training.py::test_speed_and_memory_options_change_nothing")

_CHECKPOINT_POLICY = "unit/trainers/test_checkpoint_policy_keys.py"
_BEST_CHECKPOINT = CoveredBy(f"{_CHECKPOINT_POLICY}::test_what_a_run_waits_for_comes_from_its_keys")
_NAMED_TRACKERS = CoveredBy("unit/config/test_config_trackers.py::test_names_are_those_of_the_configuration")

COVERED_BY_TESTS: dict[str, CoveredBy] = {
    # The run.
    "stage": CoveredBy(f"{_CONFIG}/test_config_online.py::test_ipo_takes_means_offline_and_sums_online"),
    "num_train_epochs": CoveredBy("unit/autoconfig/test_completion.py::test_epochs_are_steps_that_read_every_row"),
    "layout": CoveredBy("unit/autoconfig/test_completion.py::test_more_memory_needs_less_division"),
    "device_memory_gib": CoveredBy("unit/autoconfig/test_completion.py::test_what_fits_nowhere_is_told"),
    "export_hf": CoveredBy(
        "unit/trainers/test_export.py::test_the_last_checkpoint_is_converted_into_the_folder_of_its_kind"
    ),
    "eval_interval": CoveredBy(
        "unit/trainers/test_offline_dpo.py::test_evaluation_comes_at_its_interval_and_at_the_end"
    ),
    "output_dir": CoveredBy("end_to_end/test_commands_on_own_data.py::test_everything_of_a_run_lies_in_its_folder"),
    "report": CoveredBy("unit/trainers/test_run_reports.py::test_a_run_has_a_report_unless_it_is_switched_off"),
    "tensorboard": CoveredBy("end_to_end/test_commands_on_own_data.py::test_everything_of_a_run_lies_in_its_folder"),
    "device": CoveredBy(f"{_CONFIG}/test_config_run.py::test_gloo_means_the_cpu"),
    "master_port": CoveredBy("unit/workers/test_worker_process.py::test_the_next_pool_meets_one_port_higher"),
    "ray_address": CoveredBy(f"{_COMMANDS}::test_too_few_devices_are_reported_with_those_available"),
    "ray_resource": CoveredBy("unit/device/test_accelerator.py::test_each_kind_has_its_backend_and_its_ray_resource"),
    "eval_data_path": CoveredBy(
        "unit/trainers/test_evaluation.py::test_each_set_is_measured_completely_with_its_own_reference"
    ),
    "eval_at_start": CoveredBy(
        "unit/trainers/test_evaluation.py::test_an_evaluation_at_the_start_is_step_0_of_a_run_from_the_beginning_only"
    ),
    "best_metric": CoveredBy("unit/trainers/test_checkpoint_policy.py::test_the_best_is_saved_at_its_step_and_named"),
    "best_metric_mode": _BEST_CHECKPOINT,
    "early_stop_patience": CoveredBy("unit/trainers/test_checkpoint_policy.py::test_a_run_ends_when_patience_runs_out"),
    "early_stop_min_delta": _BEST_CHECKPOINT,
    "keep_last_checkpoints": _BEST_CHECKPOINT,
    "use_wandb": CoveredBy("unit/observability/test_external_trackers.py::test_a_run_logs_its_metrics_file_to_wandb"),
    "use_swanlab": _NAMED_TRACKERS,
    "use_mlflow": _NAMED_TRACKERS,
    **dict.fromkeys(
        (
            "wandb_project",
            "wandb_exp_name",
            "wandb_save_dir",
            "swanlab_project",
            "swanlab_exp_name",
            "swanlab_save_dir",
            "mlflow_tracking_uri",
            "mlflow_experiment",
            "mlflow_run_name",
        ),
        CoveredBy(f"{_CHECKPOINT_POLICY}::test_what_a_tracker_gets_comes_from_its_keys"),
    ),
    "probe_share_prompt": CoveredBy(
        "distributed/test_npu_contract.py::test_prompts_are_repeated_where_the_device_cannot_share_them"
    ),
    # Architecture.
    "rope_scaling_type": _FREQUENCIES,
    "rope_scaling_factor": _FREQUENCIES,
    "low_freq_factor": _FREQUENCIES,
    "high_freq_factor": _FREQUENCIES,
    "original_max_position_embeddings": _FREQUENCIES,
    "max_position_embeddings": CoveredBy(f"{_CONFIG}/test_config_run.py::test_absent_settings_follow_from_others"),
    "add_qkv_bias": CoveredBy("unit/models/test_policy.py::test_parameters_are_named_as_the_weights_are"),
    "sliding_window": CoveredBy("unit/weights/test_hf_config.py::test_a_window_is_read_where_every_layer_has_it"),
    "rotary_percent": _EXPERTS,
    "num_experts": _EXPERTS,
    **dict.fromkeys(("moe_ffn_hidden_size", "n_shared_experts", "moe_tp_extend_ep", "moe_layer_freq"), _SPELLINGS),
    **dict.fromkeys(("moe_router_topk", "moe_router_num_groups", "moe_router_group_topk"), _EXPERTS),
    **dict.fromkeys(("moe_router_score_function", "first_k_dense_replace", "shared_expert_gate"), _EXPERTS),
    "mlp_only_layers": CoveredBy("unit/weights/test_hf_experts.py::test_layers_with_experts_are_those_of_transformers"),
    "moe_shared_expert_intermediate_size": _SPELLINGS,
    **dict.fromkeys(
        ("moe_router_enable_expert_bias", "norm_topk_prob", "moe_router_topk_scaling_factor"),
        CoveredBy("unit/models/test_router.py::test_settings_that_change_the_routing"),
    ),
    "expert_model_parallel_size": _EXPERTS,
    "moe_aux_loss_coeff": _ROUTER_LOSSES,
    "moe_z_loss_coeff": _ROUTER_LOSSES,
    "moe_router_bias_update_rate": CoveredBy(
        "distributed/test_expert_runs.py::test_a_run_goes_on_with_other_ranks_of_experts"
    ),
    "router_aux_loss_coef": CoveredBy(
        "unit/models/test_balance.py::test_the_pooled_loss_is_that_of_transformers_for_each_pair"
    ),
    "freeze_moe_router": CoveredBy("distributed/test_expert_runs.py::test_frozen_routers_do_not_change"),
    # How it runs; none of these may change a number.
    "overlap_grad_reduce": _OPTIONS,
    "overlap_param_gather": _OPTIONS,
    "recompute_granularity": CoveredBy(f"{_CONFIG}/test_config_plan.py::test_recomputing_layers_keeps_less"),
    "recompute_method": _OPTIONS,
    "recompute_num_layers": _OPTIONS,
    "use_deter_comp": CoveredBy(f"{_CONFIG}/test_config_legacy.py::test_the_other_spelling_of_a_setting_is_reported"),
    # References, data, checkpoints.
    "ref_model": CoveredBy(
        f"{_CONFIG}/test_config_layering.py::test_without_a_section_the_reference_is_the_actor_or_ref_model"
    ),
    "reference_cache_dir": CoveredBy(
        "unit/trainers/test_reference_logprobs.py::test_what_changes_the_values_changes_the_fingerprint"
    ),
    "sync_ref_model": CoveredBy("distributed/test_following_reference.py::test_the_reference_takes_up_the_policy"),
    "tokenizer_name_or_path": CoveredBy(
        "unit/workers/rewards/test_reward_tokenizers.py::test_the_policys_tokenizer_is_loaded_from_beside_its_weights"
    ),
    "load": CoveredBy(f"{_CONFIG}/test_config_layering.py::test_the_reference_inherits_nothing_from_the_actor_section"),
    "random_init": CoveredBy(f"{_CONFIG}/test_config_layering.py::test_a_randomly_started_policy_is_its_own_reference"),
    "save": CoveredBy(f"{_CONFIG}/test_config_run.py::test_absent_settings_follow_from_others"),
    "async_save": CoveredBy(
        "distributed/test_async_runs.py::test_a_run_that_saves_in_the_background_writes_the_same_bytes"
    ),
    "save_interval": CoveredBy("unit/trainers/test_offline_dpo.py::test_every_interval_and_the_end_are_saved_once"),
    "finetune": CoveredBy(f"{_RESUME}::test_finetune_takes_the_weights_and_starts_at_the_beginning"),
    "no_load_optim": CoveredBy(f"{_RESUME}::test_load_of_a_training_checkpoint_continues_with_the_parts_left"),
    "no_load_rng": CoveredBy(f"{_RESUME}::test_load_of_a_training_checkpoint_continues_with_the_parts_left"),
    "no_save_optim": CoveredBy("unit/workers/test_actor.py::test_parts_that_are_not_to_be_saved_are_not"),
    "no_save_rng": CoveredBy("unit/workers/test_actor.py::test_parts_that_are_not_to_be_saved_are_not"),
    "resume_from": CoveredBy(f"{_RESUME}::test_resume_from_wins_over_load_and_finetune"),
    "resume": CoveredBy(f"{_RESUME}::test_latest_whole_passes_over_a_damaged_checkpoint"),
    "load_checkpoint_loosely": CoveredBy(
        "unit/trainers/test_reference_logprobs.py::test_the_seed_counts_where_loose_weights_leave_something_out"
    ),
    "drop_mtp_layers": CoveredBy("unit/weights/test_mtp_layers.py::test_a_run_refuses_them_without_the_key"),
    "clamp_weighting": CoveredBy("unit/workers/test_logprobs.py::test_agreement_is_how_likely_the_pair_is"),
    # Adapters.
    "lora_target_modules": CoveredBy(
        "unit/config/test_config_adapters.py::test_targets_are_named_by_megatron_or_by_hugging_face"
    ),
    "lora_target_parameters": CoveredBy(
        f"{_CONFIG}/test_config_plan.py::test_adapters_of_experts_are_counted_and_divided"
    ),
    "lora_r": CoveredBy("unit/config/test_config_adapters.py::test_the_scale_is_alpha_by_r_or_by_its_root"),
    "lora_alpha": CoveredBy("unit/config/test_config_adapters.py::test_the_scale_is_alpha_by_r_or_by_its_root"),
    "use_rslora": CoveredBy("unit/config/test_config_adapters.py::test_the_scale_is_alpha_by_r_or_by_its_root"),
    "lora_dropout": CoveredBy(
        "distributed/test_adapter_training.py::test_dropout_changes_learning_and_not_scoring_and_recomputation_repeats_it"
    ),
    "lora_load": CoveredBy(
        "distributed/test_adapter_training.py::"
        "test_an_adapter_to_start_from_is_taken_and_the_reference_stays_without_it"
    ),
    # Online.
    "num_samples_per_step": CoveredBy(f"{_CONFIG}/test_config_online.py::test_the_work_of_an_iteration"),
    "rollout_engine": CoveredBy("distributed/test_vllm_runs.py::test_a_run_trains_on_the_responses_of_its_engine"),
    "vllm": CoveredBy(f"{_CONFIG}/test_config_vllm.py::test_arguments_reach_the_engine_as_yaml_reads_them"),
    "rollout_slots": CoveredBy("unit/rollout/test_generator.py::test_a_finished_response_frees_its_slot_at_once"),
    "decode_rows": CoveredBy("unit/rollout/test_rollout_parallel.py::test_two_tensor_ranks_generate_as_one"),
    "max_tokens_to_oom": CoveredBy(
        "unit/rollout/test_generator.py::test_a_cache_beyond_the_limit_is_refused_with_what_to_change"
    ),
    "inference_expert_model_parallel_size": CoveredBy(
        "unit/config/test_config_experts.py::test_the_rollout_shares_experts_as_training_does_where_it_can"
    ),
    "inference_tensor_model_parallel_size": CoveredBy(
        f"{_CONFIG}/test_config_pools.py::test_the_rollout_is_the_actor_in_a_layout_of_its_own"
    ),
    "num_gpus_for_train": CoveredBy(f"{_CONFIG}/test_config_pools.py::test_the_rollout_has_the_last_processes"),
    "num_gpus_for_infer": CoveredBy(f"{_CONFIG}/test_config_pools.py::test_the_rollout_has_the_last_processes"),
    "publish_bucket_bytes": CoveredBy(
        "unit/weights/test_resharding.py::test_a_bucket_that_holds_no_row_stops_with_the_size_that_does"
    ),
    "rollout_staleness": CoveredBy(
        "distributed/test_stale_rollouts.py::test_responses_come_from_the_weights_of_the_step_before"
    ),
    "judge": CoveredBy("unit/workers/test_reward.py::test_replicas_together_score_what_one_process_scores"),
    "judge_model": CoveredBy(
        "distributed/test_judge_model_runs.py::"
        "test_a_run_trains_on_the_scores_in_the_texts_of_judges_on_processes_of_their_own"
    ),
    **dict.fromkeys(
        ("judge_mode", "judge_verdict", "judge_score_range"),
        CoveredBy("unit/workers/rewards/test_judge_verdicts.py::test_the_last_verdict_of_a_text_counts"),
    ),
    "judge_template": CoveredBy(
        "unit/workers/rewards/test_judge_questions.py::test_prompt_response_and_columns_take_the_place_of_their_names"
    ),
    "judge_system": CoveredBy(
        "unit/workers/rewards/test_judge_questions.py::"
        "test_the_judges_own_chat_template_is_applied_with_the_system_message"
    ),
    "judge_unparsed_score": CoveredBy(
        "unit/workers/rewards/test_judge_model_scorer.py::test_a_text_without_a_verdict_has_the_configured_score"
    ),
    "judge_max_new_tokens": CoveredBy(
        "unit/workers/rewards/test_judge_engine.py::test_a_question_must_fit_into_what_the_model_reads"
    ),
    "judge_tensor_model_parallel_size": CoveredBy(
        f"{_CONFIG}/test_config_judge_model.py::test_engines_of_several_devices_are_the_replicas_of_their_pool"
    ),
    **dict.fromkeys(
        ("judge_temperature", "judge_vllm"),
        CoveredBy(f"{_CONFIG}/test_config_judge_model.py::test_arguments_reach_the_engine_as_yaml_reads_them"),
    ),
    "reward_failure": CoveredBy("unit/workers/test_reward.py::test_a_failure_stops_the_run_where_that_is_configured"),
    "extract_content_for_reward": CoveredBy(
        "unit/workers/test_reward.py::test_only_the_answer_is_scored_where_that_is_configured"
    ),
    "dataset_additional_keys": CoveredBy("unit/data/test_text_columns.py::test_numbers_stay_with_their_pair"),
    "reward_tokenizer": CoveredBy(
        "unit/workers/rewards/test_reward_model_scorer.py::test_another_tokenizer_reads_the_conversation_through_its_own_template"
    ),
    "reward_prompt_type": CoveredBy(
        "unit/workers/rewards/test_reward_model_scorer.py::test_a_named_template_is_used_instead_of_the_tokenizers"
    ),
    "no_post_layer_norm": CoveredBy(
        "unit/workers/rewards/test_reward_model_scorer.py::test_without_the_final_norm_scores_differ"
    ),
    "offload": CoveredBy("unit/workers/test_actor.py::test_an_offloaded_reference_says_the_same"),
}

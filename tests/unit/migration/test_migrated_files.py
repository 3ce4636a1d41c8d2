"""Files of other trainers become valid configurations, and each of their keys is converted or accounted for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mindspeed_dpo.config.legacy_keys import canonical_key
from mindspeed_dpo.migration.huggingface.trl_rules import TRL_RULES
from mindspeed_dpo.migration.migration_error import MigrationError
from mindspeed_dpo.migration.model_files import shipped_model
from mindspeed_dpo.migration.outcome import Migration
from mindspeed_dpo.migration.rules import becomes
from mindspeed_dpo.migration.source_file import Options
from mindspeed_dpo.migration.yaml_file import problems_of, render
from tests.unit.migration.foreign_files import (
    ALIGN_ANYTHING,
    LAUNCH,
    MODEL,
    RL,
    RL_MODEL,
    ROLL,
    RUN,
    TRL,
    converted,
    reasons,
    script,
)


def check(migration: Migration) -> dict[str, Any]:
    """The file of a conversion, which has to be a valid configuration."""
    text = render(migration, "file")
    assert problems_of(text) == []
    tree = yaml.safe_load(text)
    assert isinstance(tree, dict)
    return tree


def accounted(migration: Migration) -> set[str]:
    """Keys that a conversion speaks of."""
    written = [
        *migration.settings, *migration.always_so, *(old for old, _ in migration.left_out),
        *(old for old, _, _ in migration.changed), *migration.to_do,
    ]  # fmt: skip
    return {canonical_key(re.split(r"[=: ,]", text)[0].rsplit(".", 1)[-1]) for text in written}


def test_a_mindspeed_script_becomes_a_configuration(tmp_path: Path) -> None:
    migration = converted(tmp_path, "dpo.sh", script())
    assert check(migration) == {
        "model": {
            "policy": {
                "num_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "num_query_groups": 4,
                "ffn_hidden_size": 176, "vocab_size": 1000, "make_vocab_size_divisible_by": 1,
                "max_position_embeddings": 4096, "norm_epsilon": "1e-5",
            }
        },
        "training": {
            "stage": "dpo", "train_iters": 200, "log_interval": 1, "global_batch_size": 64, "save_interval": 2000,
        },
        "actor_rollout_ref": {
            "actor_rollout": {
                "model": "policy", "tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2,
                "context_parallel_size": 2, "sequence_parallel": True, "bf16": True, "lr": 1.25e-6,
                "min_lr": 1.25e-7, "lr_decay_style": "cosine", "lr_warmup_fraction": 0.1, "dpo_loss_type": ["sigmoid"],
                "data_path": "/data/pairs", "split": "100,0,0", "seq_length": 2048, "micro_batch_size": 1,
                "pad_to_multiple_of": 4, "load": "/weights/llama", "save": "./out", "finetune": True,
            }
        },
        "resource_pool": {"actor_rollout": [8, 8]},
    }  # fmt: skip
    assert migration.to_do == []


def test_every_flag_of_a_script_is_accounted_for(tmp_path: Path) -> None:
    text = script("--frobnicate 3 --log-throughput --ckpt-format torch")
    migration = converted(tmp_path, "dpo.sh", text)
    flags = {canonical_key(flag) for flag in re.findall(r"--([a-z][\w-]*)", text)}
    assert flags - {"nproc_per_node", "nnodes"} <= accounted(migration)
    left = reasons(migration)
    assert left["frobnicate=3"].startswith("it is not known as a key of MindSpeed-LLM")
    assert left["eval_interval=1000"].startswith("split has no rows for evaluation")
    assert "Ulysses" in left["context_parallel_algo=megatron_cp_algo"]
    assert "log_throughput=true" in migration.always_so and "swiglu=true" in migration.always_so


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("--num-experts 4 --moe-router-topk 2", {"norm_topk_prob": True}),
        ("--num-experts 4 --moe-router-pre-softmax", {"norm_topk_prob": None}),
        ("--num-experts 4 --moe-router-pre-softmax --norm-topk-prob", {"norm_topk_prob": True}),
        ("--num-experts 4 --moe-intermediate-size 32 --first-k-dense-replace -1", {"moe_ffn_hidden_size": "32"}),
        ("--num-experts 4 --routed-scaling-factor 2.5", {"moe_router_topk_scaling_factor": "2.5"}),
        (
            "--lora-r 8 --lora-target-modules linear_qkv linear_proj",
            {"lora_target_modules": ["linear_qkv", "linear_proj"]},
        ),
        ("--npu-deterministic", {"use_deter_comp": True}),
        ("--wandb-project p", {"wandb_project": "p", "use_wandb": True}),
        ("--lr 2e-6", {"lr": "2e-6"}),
        ("--ref-model /ref --refer-model-iter 5", {"ref_model": "/ref"}),
    ],
)
def test_flags_of_mindspeed(tmp_path: Path, extra: str, expected: dict[str, Any]) -> None:
    migration = converted(tmp_path, "dpo.sh", script(extra))
    check(migration)
    assert {key: migration.settings.get(key) for key in expected} == expected


def test_simpo_becomes_a_loss(tmp_path: Path) -> None:
    run = RUN.replace("--stage dpo --dpo-loss-type sigmoid", "--stage simpo --gamma-beta-ratio 0.55")
    for extra, beta in (("", 2.5), ("--simpo-beta 2.0", "2.0")):
        migration = converted(tmp_path, "simpo.sh", script(extra, run))
        check(migration)
        assert migration.settings["dpo_loss_type"] == "simpo" and migration.settings["dpo_beta"] == beta
        assert migration.settings["gamma_beta_ratio"] == "0.55"
    ignored = reasons(converted(tmp_path, "dpo.sh", script("--simpo-beta 2.0 --simpo-loss-type hinge")))
    assert ignored["simpo_beta=2.0"] == "only stage simpo uses it" and "simpo_loss_type=hinge" in ignored


def test_the_vocabulary_of_a_known_size_is_found(tmp_path: Path) -> None:
    text = script().replace("    --vocab-size 1000 \\\n", "").replace("--num-query-groups 4", "--num-query-groups 32")
    unknown = converted(tmp_path, "small.sh", text)
    assert problems_of(render(unknown, "x")) and any(line.startswith("vocab_size: ") for line in unknown.to_do)
    sizes = {"num-layers 4": 32, "hidden-size 64": 4096, "ffn-hidden-size 176": 11008, "attention-heads 4": 32}
    for old, new in sizes.items():
        text = text.replace(old, f"{old.split()[0]} {new}")
    llama = converted(tmp_path, "llama.sh", text)
    check(llama)
    assert llama.settings["vocab_size"] == 32000


def test_undefined_variables_and_conditions_are_to_do(tmp_path: Path) -> None:
    text = script("--tokenizer-name-or-path $TOKENIZER", variables="if [ $1 ]; then\nTP=2\nfi\n").replace(
        "CKPT=", "XCKPT="
    )
    migration = converted(tmp_path, "dpo.sh", text)
    assert "load" not in migration.settings and "tokenizer_name_or_path" not in migration.settings
    assert any("load=${CKPT} contains a value that the file does not define" in line for line in migration.to_do)
    assert any("`if` is not evaluated" in line for line in migration.to_do)
    unknown = converted(tmp_path, "dpo.sh", text.replace("NPUS_PER_NODE=8", ""))
    assert unknown.processes == () and any(
        "nproc_per_node=$NPUS_PER_NODE is no number" in line for line in unknown.to_do
    )


def test_a_mixture_of_data_becomes_a_list(tmp_path: Path) -> None:
    mixture = converted(tmp_path, "dpo.sh", script().replace('"/data/pairs"', '"0.3 /a 0.7 /b"'))
    assert mixture.settings["data_path"] == "0.3,/a,0.7,/b"
    spaces = converted(tmp_path, "dpo.sh", script().replace('"/data/pairs"', '"your data path"'))
    assert spaces.settings["data_path"] == "your data path"
    check(spaces)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (script(run=RUN.replace("--stage dpo", "--stage sft")), "stage sft cannot be converted"),
        (script(run=RUN.replace("--stage dpo", "").replace("--is-pairwise-dataset", "")), "neither stage nor"),
        (script() + RUN, "has 2 training commands"),
        (LAUNCH + MODEL, "has no training command that can be converted"),
        ("echo posttrain_gpt.py", "has no training command"),
        ("torchrun cli/train_dpo.py --config-name dpo_x", r"only starts cli/train_dpo.py: convert dpo_x.yaml instead"),
        ("python start_dpo_pipeline.py --config_path a/b --config_name c", "convert a/b/c.yaml instead"),
    ],
)
def test_scripts_that_cannot_be_converted(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(MigrationError, match=sentence):
        converted(tmp_path, "run.sh", text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1", "is none of the files that can be converted"),
        ("actor_rollout_ref: {}\ntraining: {}", "needs no conversion: mindspeed-dpo train --config-dir"),
        ("megatron_training: [1]", "section megatron_training should contain keys and values"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_yaml_files_that_cannot_be_converted(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(MigrationError, match=sentence):
        converted(tmp_path, "run.yaml", text)


def test_a_mindspeed_rl_file_takes_its_model_file(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "qwen3_tiny.yaml").write_text(RL_MODEL)
    migration = converted(tmp_path, "dpo.yaml", RL, Options(processes=(4, 4)))
    tree = check(migration)
    assert tree["model"]["policy"]["num_layers"] == 4 and tree["model"]["policy"]["qk_layernorm"] is True
    assert tree["resource_pool"] == {"actor_rollout": [4, 4]} and tree["training"]["use_wandb"] is True
    left = reasons(migration)
    assert {"refer_model_iter=1", "tokenizer_not_use_fast=true", "rl_config.guarantee_order=false"} <= set(left)
    keys = set(yaml.safe_load(RL)["megatron_training"]) | set(yaml.safe_load(RL_MODEL)["qwen3_tiny"])
    assert {canonical_key(key) for key in keys} - {"model"} <= accounted(migration)


def test_a_mindspeed_rl_file_without_model_file_takes_the_shipped_one(tmp_path: Path) -> None:
    migration = converted(tmp_path, "dpo.yaml", RL.replace("qwen3_tiny", "qwen3_30b_a3b"))
    assert migration.shipped_model == "qwen3-30b-a3b"
    assert "defaults" in check(migration)


def test_a_roll_file_becomes_a_configuration(tmp_path: Path) -> None:
    migration = converted(tmp_path, "dpo_config.yaml", ROLL)
    tree = check(migration)
    actor = tree["actor_rollout_ref"]["actor_rollout"]
    assert tree["defaults"] == [{"model": ["qwen3-8b"]}] and tree["resource_pool"] == {"actor_rollout": [8, 8]}
    assert {key: migration.settings[key] for key in ("micro_batch_size", "global_batch_size")} == {
        "micro_batch_size": 4,
        "global_batch_size": 4 * 2 * 8,
    }
    assert (actor["dpo_loss_type"], actor["ipo_normalize"], actor["dpo_beta"]) == ("ipo", False, 0.2)
    assert (actor["seq_length"], actor["truncation"], actor["save"]) == (512, "drop", "./ckpt/tiny")
    assert (actor["lr_decay_style"], actor["lr_warmup_iters"], actor["weight_decay"]) == ("constant", 20, 0.0)
    assert (actor["recompute_method"], tree["training"]["eval_interval"]) == ("uniform", 50)
    assert any("ROLL's DPO never passes it on" in remark for _, _, remark in migration.changed)
    commands = [line for line in migration.to_do if "mindspeed-dpo preprocess" in line]
    assert ["data/train.json" in commands[0], "data/test.json" in commands[1]] == [True, True]
    assert json.dumps("better") in commands[0] and json.dumps("worse") in commands[0]
    leaves = {line.split(":")[0].strip(" -") for line in ROLL.splitlines() if re.search(r": .", line)}
    combined = {
        "file_name", "chosen_key", "rejected_key", "num_gpus_per_node", "device_mapping", "pretrain", "warmup_steps",
        "per_device_train_batch_size", "gradient_accumulation_steps", "max_steps", "track_with",
    }  # fmt: skip
    assert leaves - combined <= accounted(migration)


def test_a_trl_command_becomes_a_configuration(tmp_path: Path) -> None:
    migration = converted(tmp_path, "train.sh", TRL, Options(num_pairs=1000))
    tree = check(migration)
    settings = migration.settings
    assert (settings["micro_batch_size"], settings["global_batch_size"], settings["train_iters"]) == (2, 64, 32)
    assert tree["resource_pool"] == {"actor_rollout": [4]} and migration.shipped_model == "qwen25-7b"
    assert settings["dpo_loss_type"] == ["sigmoid", "bco_pair"] and settings["loss_weights"] == ["0.8", "0.2"]
    assert (settings["lora_r"], settings["lora_alpha"], settings["lora_dropout"]) == ("32", 32, 0.05)
    assert settings["lora_target_modules"] == ["q_proj", "k_proj"] and "recompute_granularity" not in settings
    assert (settings["dpo_beta"], settings["seq_length"], settings["weight_decay"], settings["bf16"]) == (
        "0.05",
        1024,
        0.0,
        True,
    )
    assert {"frobnicate=3", "report_to=comet"} <= set(reasons(migration)) and settings["use_wandb"] is True
    assert any("preprocess --input trl-lib/ultrafeedback_binarized" in line for line in migration.to_do)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--max_steps 50", {"train_iters": 50}),
        ("--gradient_checkpointing True", {"recompute_granularity": "full", "recompute_num_layers": 1}),
        ("--warmup_ratio 0.1", {"lr_warmup_fraction": 0.1}),
        ("--warmup_steps 2 --lr_scheduler_type cosine", {"lr_warmup_iters": 2, "lr_decay_style": "cosine"}),
        ("--warmup_steps 20 --lr_scheduler_type constant", {"lr_warmup_iters": None, "lr_decay_style": "constant"}),
        ("--lr_scheduler_type polynomial", {"lr_decay_style": None}),
        ("--truncation_mode keep_end", {"truncation": "cut_prompt"}),
        ("--loss_type aot_pair", {"dpo_loss_type": ["aot_unpaired"]}),
        ("--loss_type sigmoid --rpo_alpha 0.5", {"dpo_loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
        ("--save_strategy no", {"save_interval": None}),
        ("--sync_ref_model True", {"sync_ref_model": True, "reference": "live"}),
        ("--eval_strategy steps --eval_steps 7", {"eval_interval": 7, "eval_data_path": "dataset/test"}),
        ("--fp16 True", {"bf16": None}),
        ("--bf16 False", {"bf16": False}),
    ],
)
def test_flags_of_trl(tmp_path: Path, flags: str, expected: dict[str, Any]) -> None:
    start = TRL.split("--loss_type")[0].replace("--num_train_epochs 2", "")
    migration = converted(tmp_path, "train.sh", f"{start} {flags}\n", Options(num_pairs=100))
    check(migration)
    assert {key: migration.settings.get(key) for key in expected} == expected
    assert set(re.findall(r"--(\w+)", flags)) <= accounted(migration)


def test_every_key_of_trl_is_accounted_for(tmp_path: Path) -> None:
    keys = [key.replace("*", "x") for key in TRL_RULES]
    content = {"model_name_or_path": "Qwen/Qwen3-8B", "dataset_name": "d", "use_peft": True, "max_steps": 3}
    migration = converted(tmp_path, "dpo.yaml", yaml.safe_dump({**dict.fromkeys(keys, 1), **content}))
    of_batch = {"per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs"}
    assert set(keys) - of_batch - {"dataset_name", "dtype", "torch_dtype"} <= accounted(migration)
    assert any("1 pairs x 1 passes" in old for old, _, _ in migration.changed)


def test_a_trl_yaml_and_the_command_trl_dpo_are_read(tmp_path: Path) -> None:
    content = {
        "model_name_or_path": "Qwen/Qwen3-8B",
        "dataset_name": "d",
        "max_steps": 3,
        "beta": 0.3,
        "loss_type": ["ipo"],
    }
    of_yaml = converted(tmp_path, "dpo.yaml", yaml.safe_dump(content), Options(processes=(2,)))
    assert check(of_yaml)["training"]["train_iters"] == 3 and of_yaml.settings["dpo_loss_type"] == ["ipo"]
    flags = " ".join(f"--{key} {value}" for key, value in {**content, "loss_type": "ipo"}.items())
    command = f"trl dpo --num_processes 2 {flags}"
    of_command = converted(tmp_path, "dpo.sh", command)
    assert check(of_command) == check(of_yaml)


def test_what_a_trl_file_does_not_say_is_to_do(tmp_path: Path) -> None:
    migration = converted(tmp_path, "dpo.sh", "trl dpo --model_name_or_path org/unknown --config x.yaml")
    to_do = "\n".join(migration.to_do)
    for words in (
        "use --devices",
        "the architecture of org/unknown is not known",
        "names no dataset",
    ):
        assert words in to_do
    assert problems_of(render(migration, "x"))


@pytest.mark.parametrize(
    ("file", "text", "epochs"),
    [
        ("train.sh", TRL, 2),
        ("train.sh", "trl dpo --num_processes 2 --model_name_or_path Qwen/Qwen3-8B --dataset_name d", 3),
        ("llama_dpo.sh", ALIGN_ANYTHING, 3),
        ("roll.yaml", re.sub(r"max_steps: .*", "max_steps: -1", ROLL), 10),
    ],
    ids=["TRL", "default of TRL", "align-anything", "ROLL"],
)
def test_epochs_stay_epochs_where_the_rows_are_not_counted(tmp_path: Path, file: str, text: str, epochs: int) -> None:
    training = check(converted(tmp_path, file, text))["training"]
    assert training["num_train_epochs"] == epochs and "train_iters" not in training
    in_steps = check(converted(tmp_path, file, text, Options(num_pairs=5000)))["training"]
    assert "train_iters" in in_steps and "num_train_epochs" not in in_steps


def test_an_align_anything_script_is_completed_with_its_defaults(tmp_path: Path) -> None:
    migration = converted(tmp_path, "llama_dpo.sh", ALIGN_ANYTHING, Options(num_pairs=1000))
    check(migration)
    settings = migration.settings
    assert (settings["dpo_beta"], settings["lr"], settings["adam_beta2"]) == ("0.2", 5e-6, 0.95)
    assert (settings["global_batch_size"], settings["train_iters"], migration.processes) == (256, 12, (8,))
    assert migration.shipped_model == "llama3-8b" and "BetterResponsePairwiseHandler" in "\n".join(migration.to_do)
    assert any("`source` is not evaluated" in line for line in migration.to_do)


def test_a_local_folder_gives_the_architecture(tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 176, "vocab_size": 100,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "hidden_act": "silu",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    migration = converted(
        tmp_path, "dpo.sh", f"trl dpo --model_name_or_path {folder} --dataset_name d --max_steps 3 --num_processes 1"
    )
    model = check(migration)["model"]["policy"]
    assert (model["num_layers"], model["num_query_groups"], model["vocab_size"]) == (2, 2, 100)
    (folder / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(MigrationError, match="mamba"):
        converted(tmp_path, "dpo.sh", f"trl dpo --model_name_or_path {folder}")


@pytest.mark.parametrize(
    "value", ["a b", 'a"b', "true", "null", "~x", "a: b", "a #b", "- a", "[a]", "{a}", "*a", "é", "a\\b", "@x"]
)
def test_texts_survive_the_file(tmp_path: Path, value: str) -> None:
    migration = converted(tmp_path, "dpo.sh", script())
    migration.settings["prompt_type"] = value
    assert check(migration)["actor_rollout_ref"]["actor_rollout"]["prompt_type"] == value


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen3-8B", "qwen3-8b"), ("./model_from_hf/qwen3_8b/", "qwen3-8b"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen25-7b"),
        ("meta-llama/Llama-3.2-1B-Instruct", "llama32-1b"), ("meta-llama/Llama-2-7b-chat-hf", "llama2-7b"),
        ("meta-llama/Meta-Llama-3.1-8B", "llama3-8b"), ("llama3-8b", "llama3-8b"), ("meta-llama/Meta-Llama-3-8B", ""),
        ("Qwen/Qwen3-30B-A3B", "qwen3-30b-a3b"), ("Qwen/Qwen3-30B-A3B-Instruct-2507", ""), ("Qwen/Qwen2.5-Math-7B", ""),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b"), ("zai-org/GLM-4.5-Air", "glm45-air"), ("", ""),
    ],
)  # fmt: skip
def test_shipped_models_are_found_by_name(name: str, expected: str) -> None:
    assert shipped_model(name) == expected


@pytest.mark.parametrize("value", [["bf16"], {"a": "1"}, [{"a": ["b"]}], None])
def test_a_value_of_another_kind_than_those_of_a_rule_has_no_counterpart(value: object) -> None:
    rule = becomes("truncation", values={"keep_start": "keep_start"})
    assert "has no counterpart; truncation may be keep_start" in str(rule.convert(value))

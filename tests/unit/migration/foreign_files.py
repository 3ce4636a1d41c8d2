"""Small files of other trainers, with the flags and keys that their published ones have."""

from __future__ import annotations

from pathlib import Path

from mindspeed_dpo.migration.outcome import Migration
from mindspeed_dpo.migration.source_file import Options, convert_file

LAUNCH = """#!/bin/bash
export CUDA_DEVICE_MAX_CONNECTIONS=1
NPUS_PER_NODE=8
NNODES=2
WORLD_SIZE=$(($NPUS_PER_NODE*$NNODES))
DATA_PATH="/data/pairs"
CKPT=/weights/llama
TP=2
CP=2
DISTRIBUTED_ARGS="
    --nproc_per_node $NPUS_PER_NODE \\
    --nnodes $NNODES \\
    --node_rank 0 \\
    --master_addr localhost
"
"""
MODEL = """
GPT_ARGS="
    --use-mcore-models \\
    --tensor-model-parallel-size ${TP} \\
    --pipeline-model-parallel-size 2 \\
    --context-parallel-size ${CP} \\
    --context-parallel-algo megatron_cp_algo \\
    --pad-to-multiple-of $((TP*CP)) \\
    --sequence-parallel \\
    --num-layers 4 \\
    --hidden-size 64 \\
    --ffn-hidden-size 176 \\
    --num-attention-heads 4 \\
    --group-query-attention \\
    --num-query-groups 4 \\

    --vocab-size 1000 \\
    --make-vocab-size-divisible-by 1 \\
    --max-position-embeddings 4096 \\
    --position-embedding-type rope \\
    --normalization RMSNorm \\
    --norm-epsilon 1e-5 \\
    --swiglu \\
    --disable-bias-linear \\
    --attention-dropout 0.0 \\
    --use-flash-attn \\
    --no-check-for-nan-in-loss-and-grad \\
    --micro-batch-size 1 \\
    --global-batch-size 64 \\
    --seq-length 2048 \\
    --lr 1.25e-6 \\
    --lr-decay-style cosine \\
    --min-lr 1.25e-7 \\
    --lr-warmup-fraction 0.1 \\
    --train-iters 200 \\
    --initial-loss-scale 4096 \\
    --bf16 \\
    --finetune
"
"""
RUN = """
torchrun $DISTRIBUTED_ARGS posttrain_gpt.py \\
    $GPT_ARGS \\
    $EXTRA_ARGS \\
    --data-path $DATA_PATH --split 100,0,0 \\
    --log-interval 1 --save-interval 2000 --eval-interval 1000 --eval-iters 10 \\
    --stage dpo --dpo-loss-type sigmoid --is-pairwise-dataset \\
    --distributed-backend nccl \\
    --load ${CKPT} --save ./out \\
    | tee logs/run.log
"""

RL_MODEL = """
qwen3_tiny:
  use_mcore_models: true
  num_layers: 4
  hidden_size: 64
  ffn_hidden_size: 176
  num_attention_heads: 4
  padded_vocab_size: 1000
  max_position_embeddings: 4096
  position_embedding_type: rope
"""
RL = """
defaults:
  - model:
      - qwen3_tiny
megatron_training:
  model: qwen3_tiny
  stage: dpo
  is_pairwise_dataset: true
  tokenizer_not_use_fast: true
  global_batch_size: 64
  micro_batch_size: 1
  seq_length: 4096
  train_iters: 1000
  lr: 5e-8
  min-lr: 0
  qk_layernorm: true
  bf16: true
  data_path: ./dataset/dpo
  load: ./weights
  ref_model: ./weights
  refer_model_iter: 1
rl_config:
  use_wandb: true
  guarantee_order: false
profiler_config:
  integrated:
    profile: false
"""

ROLL = """
exp_name: tiny
seed: 7
output_dir: ./output
max_steps: 500
save_steps: 100
eval_steps: 50
sequence_length: 512
num_gpus_per_node: 8
pretrain: Qwen/Qwen3-8B
ipo: true
beta: 0.2
chosen_key: better
rejected_key: worse
checkpoint_config:
  type: file_system
  output_dir: ./ckpt/${exp_name}
track_with: wandb
tracker_kwargs:
  project: roll_examples
validation:
  data_args:
    file_name: data/test.json
actor_train:
  model_args:
    dtype: bf16
  training_args:
    lr_scheduler_type: constant_with_warmup
    learning_rate: 1.0e-6
    per_device_train_batch_size: 4
    gradient_accumulation_steps: 2
    warmup_steps: 20
    num_train_epochs: 10
  data_args:
    file_name:
      - data/train.json
  strategy_args:
    strategy_name: megatron_train
    strategy_config:
      tensor_model_parallel_size: 2
      recompute_granularity: full
      moe_grouped_gemm: true
  device_mapping: list(range(0,16))
reference:
  model_args:
    dtype: bf16
"""

TRL = """
MODEL=Qwen/Qwen2.5-7B-Instruct
CUDA_VISIBLE_DEVICES=0,1,2,3 accelerate launch --num_processes 4 trl/scripts/dpo.py \\
    --model_name_or_path "$MODEL" \\
    --dataset_name trl-lib/ultrafeedback_binarized \\
    --learning_rate 5.0e-6 \\
    --num_train_epochs 2 \\
    --per_device_train_batch_size 2 \\
    --gradient_accumulation_steps 8 \\
    --loss_type sigmoid bco_pair --loss_weights 0.8 0.2 \\
    --beta=0.05 \\
    --no_gradient_checkpointing \\
    --no_remove_unused_columns \\
    --use_peft --lora_r 32 --lora_target_modules q_proj k_proj \\
    --report_to wandb comet \\
    --frobnicate 3 \\
    --output_dir out > run.log 2>&1
"""

ALIGN_ANYTHING = """
MODEL_NAME_OR_PATH="meta-llama/Llama-3.1-8B-Instruct"
OUTPUT_DIR=../outputs/dpo
source ./setup.sh
deepspeed --num_gpus 8 \\
     --master_port ${MASTER_PORT} \\
     --module align_anything.trainers.text_to_text.dpo \\
     --model_name_or_path ${MODEL_NAME_OR_PATH} \\
     --train_template PKUSafeRLHF \\
     --train_datasets PKU-Alignment/PKU-SafeRLHF-single-dimension \\
     --scale_coeff 0.2 \\
     --output_dir ${OUTPUT_DIR}
"""


def script(extra: str = "", run: str = RUN, variables: str = "") -> str:
    """A training script of MindSpeed-LLM."""
    return f'{LAUNCH}{variables}{MODEL}EXTRA_ARGS="{extra}"\n{run}'


def converted(folder: Path, name: str, text: str, options: Options | None = None) -> Migration:
    """Write a file and convert it."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return convert_file(path, options or Options())


def reasons(migration: Migration) -> dict[str, str]:
    """What is left out, and why."""
    return dict(migration.left_out)

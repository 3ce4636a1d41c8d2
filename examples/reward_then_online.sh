#!/usr/bin/env bash
# Train a reward model on pairs of a rule, then a policy online with it, on two CPU processes:
#   bash examples/reward_then_online.sh
# It takes about 60 seconds of processor time.
#
# The rule, the share of vowels in a response, makes the pairs and is hidden from both trainings otherwise; at the end it
# scores what the policy has sampled. All output is in outputs/reward_then_online, which each run replaces.
#
# Environment:
#   VENV    virtual environment to create and use (default: .venv in the repository)
#   PYTHON, TORCH_REQUIREMENT: see examples/environment.sh
set -euo pipefail
exec </dev/null
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
# shellcheck source=examples/environment.sh
source examples/environment.sh

venv="${VENV:-$root/.venv}"
out="outputs/reward_then_online"
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_DISABLE_PROGRESS_BARS=1 HF_HUB_OFFLINE=1 HYDRA_FULL_ERROR=1

make_environment "$venv" ""
python="$venv/bin/python"
export PATH="$venv/bin:$PATH"
SECONDS=0
rm -rf "$out"
mkdir -p "$out"

echo "=== a tiny model, pairs of the rule, prompts"
"$python" examples/tiny/make_model.py "$out/hf"
"$python" examples/tiny/make_rule_pairs.py "$out/pairs.jsonl"
"$python" examples/tiny/make_prompts.py "$out/prompts.jsonl"
"$python" preprocess_data.py --input "$out/pairs.jsonl" --output-prefix "$out/data/pairs" \
    --handler-name AlpacaStylePairwiseHandler --prompt-type chat_template --tokenizer-name-or-path "$out/hf" \
    --map-keys '{"prompt": "prompt", "query": "", "chosen": "chosen", "rejected": "rejected"}'
"$python" preprocess_data.py --input "$out/prompts.jsonl" --output-prefix "$out/data/prompts" \
    --handler-name PPOAlpacaStyleInstructionHandler --prompt-type chat_template --tokenizer-name-or-path "$out/hf" \
    --map-keys '{"prompt": "prompt", "query": ""}'

echo "=== the reward model; long responses are cut, as sampled ones are that reach their limit"
"$python" ray_gpt.py --config-name reward_model_trainer_tiny \
    training.output_dir="$out/reward_model" training.train_iters=120 training.global_batch_size=32 \
    training.seq_length=40 training.eval_interval=40 training.save_interval=null training.log_interval=20 \
    training.tokenizer_name_or_path="$out/hf" actor_rollout_ref.actor_rollout.load="$out/hf" \
    actor_rollout_ref.actor_rollout.data_path="$out/data/pairs" actor_rollout_ref.actor_rollout.truncation=keep_start \
    actor_rollout_ref.actor_rollout.micro_batch_size=16 actor_rollout_ref.actor_rollout.lr=3e-3 \
    actor_rollout_ref.actor_rollout.tensor_model_parallel_size=1 \
    actor_rollout_ref.actor_rollout.sequence_parallel=false
"$python" examples/tiny/show_training.py "$out/reward_model/metrics.jsonl"

echo "=== the reward model as a classifier of transformers"
"$python" convert_ckpt.py --orm --load-model-type mg --save-model-type hf \
    --load-dir "$out/reward_model/checkpoints" --save-dir "$out/reward_model_hf"
"$python" examples/tiny/try_reward_model.py "$out/reward_model_hf"

echo "=== the policy online, scored by the reward model"
"$python" ray_gpt.py --config-name online_dpo_trainer_tiny \
    training.output_dir="$out/online" training.train_iters=50 training.save_interval=null training.log_interval=10 \
    training.log_samples_interval=10 training.tokenizer_name_or_path="$out/hf" \
    actor_rollout_ref.actor_rollout.load="$out/hf" actor_rollout_ref.actor_rollout.data_path="$out/data/prompts" \
    reward.reward_functions=null reward.model=tiny reward.load="$out/reward_model/checkpoints"
"$python" examples/tiny/show_online.py "$out/online/metrics.jsonl"
"$python" examples/tiny/show_rule.py "$out/online" --above 0.7

echo "finished in $SECONDS s after the installation; all output is in $root/$out"

#!/usr/bin/env bash
# Train tiny models by offline and online DPO on two CPU processes: bash examples/quickstart.sh
#
# Creates a virtual environment, a tiny model, preferences and prompts, then preprocesses, converts, trains offline twice
# (tensor parallel, data parallel) and online once, and converts back. All output is in outputs/quickstart, which each run
# replaces.
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
out="outputs/quickstart"
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_DISABLE_PROGRESS_BARS=1 HF_HUB_OFFLINE=1 HYDRA_FULL_ERROR=1

steps=11
number=0
current="start"
step() {
    number=$((number + 1))
    current="$number/$steps $1"
    echo
    echo "=== $current"
}
trap 'echo "quickstart stopped in step $current" >&2' ERR

step "environment in $venv"
make_environment "$venv" ""
python="$venv/bin/python"
export PATH="$venv/bin:$PATH"
SECONDS=0
rm -rf "$out"
mkdir -p "$out"

step "tiny Hugging Face models, one of them with experts, and their tokenizer"
"$python" examples/tiny/make_model.py "$out/hf"
"$python" examples/tiny/make_model.py "$out/hf_moe" --experts

step "preference set"
"$python" examples/tiny/make_preferences.py "$out/preferences.jsonl"

step "preprocess: text to token files"
"$python" preprocess_data.py \
    --input "$out/preferences.jsonl" \
    --output-prefix "$out/data/pairs" \
    --handler-name AlpacaStylePairwiseHandler \
    --map-keys '{"prompt": "prompt", "query": "", "chosen": "chosen", "rejected": "rejected"}' \
    --prompt-type chat_template \
    --tokenizer-type PretrainedFromHF \
    --tokenizer-name-or-path "$out/hf" \
    --seq-length 256

step "convert: Hugging Face to Megatron-core, tensor parallel 2"
"$python" convert_ckpt.py \
    --load-model-type hf --save-model-type mg --model-type-hf llama2 \
    --target-tensor-parallel-size 2 --target-pipeline-parallel-size 1 \
    --load-dir "$out/hf" --save-dir "$out/mcore_tp2"

step "train, tensor parallel over 2 processes"
"$python" ray_gpt.py --config-name offline_dpo_trainer_tiny \
    training.output_dir="$out/run_tp2" training.log_interval=10 \
    actor_rollout_ref.actor_rollout.load="$out/mcore_tp2"
"$python" examples/tiny/show_training.py "$out/run_tp2/metrics.jsonl"

step "train again, data parallel over 2 processes, directly from the Hugging Face folder"
"$python" ray_gpt.py --config-name offline_dpo_trainer_tiny \
    training.output_dir="$out/run_dp2" training.log_interval=10 \
    actor_rollout_ref.actor_rollout.tensor_model_parallel_size=1 \
    actor_rollout_ref.actor_rollout.sequence_parallel=false
"$python" examples/tiny/show_training.py "$out/run_dp2/metrics.jsonl"

step "prompts for online DPO: text to token files"
"$python" examples/tiny/make_prompts.py "$out/prompts.jsonl"
"$python" preprocess_data.py \
    --input "$out/prompts.jsonl" \
    --output-prefix "$out/data/prompts" \
    --handler-name PPOAlpacaStyleInstructionHandler \
    --map-keys '{"prompt": "prompt", "query": ""}' \
    --prompt-type chat_template \
    --tokenizer-type PretrainedFromHF \
    --tokenizer-name-or-path "$out/hf"

step "train online: sample responses, score them by a rule, train on the best and worst"
"$python" ray_gpt.py --config-name online_dpo_trainer_tiny \
    training.output_dir="$out/run_online" training.log_interval=10 training.log_samples_interval=30
"$python" examples/tiny/show_online.py "$out/run_online/metrics.jsonl" --above 0.9

step "convert the result back to Hugging Face"
"$python" convert_ckpt.py \
    --load-model-type mg --save-model-type hf \
    --load-dir "$out/run_tp2/checkpoints" --save-dir "$out/trained_hf"

step "load it with transformers"
"$python" examples/tiny/try_model.py "$out/trained_hf"

cat <<DONE

Finished in $SECONDS s after the installation. In $root/$out:
  hf/                 the initial model with its tokenizer
  hf_moe/             the same with experts, for offline_dpo_trainer_tiny_moe and online_dpo_trainer_tiny_moe
  preferences.jsonl   the raw pairs; data/ contains the token files
  mcore_tp2/          the initial model in Megatron-core's format, tensor-parallel size 2
  run_tp2/, run_dp2/  the offline runs: metrics.jsonl, config.yaml, logs/, tensorboard/, checkpoints/
  run_online/         the online run: the same, and samples.jsonl with responses and scores
  trained_hf/         the trained model; AutoModelForCausalLM.from_pretrained loads it
Curves: $venv/bin/tensorboard --logdir $out
DONE

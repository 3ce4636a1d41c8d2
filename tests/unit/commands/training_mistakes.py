"""Usual mistakes in the commands `train` and `plan`."""

from __future__ import annotations

from tests.unit.commands.mistake import Mistake

QUICK = "mindspeed-dpo train model=models/tiny data=pairs.jsonl"
MINE = "mindspeed-dpo train --config-name conf/mine.yaml"
_CHECKPOINT = "outputs/first/checkpoints/iter_0000010"

COMMAND_LINE = (
    Mistake("a command with a typing error", "mindspeed-dpo trian", "there is no command trian; did you mean train?"),
    Mistake("neither model nor configuration", "mindspeed-dpo train --training.train_iters=5",
            "error: model= and data= are missing, or --config-name; there are"),
    Mistake("no data", "mindspeed-dpo train model=models/tiny",
            "data= is missing: name a file or folder of pairs, or token files, or a configuration with --config-name"),
    Mistake("a key with a typing error", f"{MINE} training.train_iter=5",
            "training.train_iter is not a known key; did you mean train_iters (section training)?"),
    Mistake("the same without a section", f"{MINE} train_iter=5",
            "train_iter is not a known key; did you mean train_iters (section training)?"),
    Mistake("a section with a typing error", f"{MINE} trainin.lr=1e-6",
            "trainin is not a known section; did you mean training?"),
    Mistake("a key of another trainer", f"{MINE} --learning-rate 1e-6",
            "--learning-rate is no option; did you mean lr?"),
    Mistake("an option with a typing error", "python ray_gpt.py --load-dr models/tiny",
            "--load-dr is no option; did you mean load?"),
    Mistake("--config in place of --config-name", "mindspeed-dpo train --config conf/mine.yaml",
            "--config is no option; did you mean --config-name?"),
    Mistake("a file without --config-name", "mindspeed-dpo train conf/mine.yaml",
            "conf/mine.yaml is no setting; did you mean --config-name conf/mine.yaml?"),
    Mistake("spaces around =", f"{MINE} training.lr = 5",
            "training.lr has no value; settings are written section.key=value, without spaces around ="),
    Mistake("a word where a number belongs", f"{MINE} training.train_iters=five",
            "training.train_iters=five must be an integer"),
    Mistake("a value that does not exist", f"{MINE} dpo_loss_type=sigmoidd",
            "dpo_loss_type=sigmoidd is not supported; choose sigmoid, hinge, …; did you mean sigmoid?"),
    Mistake("a stage with a typing error", f"{QUICK} stage=ofline",
            "stage=ofline must be offline, online or rm; did you mean offline?"),
    Mistake("steps and epochs", f"{QUICK} train_iters=10 num_train_epochs=2",
            "train_iters and num_train_epochs exclude each other; keep one"),
    Mistake("plan with another word", "mindspeed-dpo train --config-name conf/mine.yaml plan=maybe",
            "plan=maybe must be true or false"),
)  # fmt: skip

CONFIGURATION = (
    Mistake("a configuration with a typing error", "mindspeed-dpo train --config-name offline_dpo_trainer_tny",
            "there is no such configuration; did you mean offline_dpo_trainer_tiny?"),
    Mistake("a path with a typing error", "mindspeed-dpo train --config-name conf/mina.yaml",
            "--config-name conf/mina.yaml: there is no file conf/mina.yaml; did you mean conf/mine.yaml?"),
    Mistake("a folder that does not exist", "mindspeed-dpo plan --config-dir cnf --config-name mine",
            "--config-dir cnf: there is no such folder"),
    Mistake("a tab in YAML", "mindspeed-dpo plan --config-name conf/tab.yaml",
            r"conf/tab.yaml is not valid YAML: while scanning for the next token found character '\t' that cannot "
            "start any token in line 8, column 1"),
    Mistake("no space after a colon", "mindspeed-dpo plan --config-name conf/colon.yaml",
            "conf/colon.yaml is not valid YAML: while scanning a simple key in line 17, column 3: seed:42"),
    Mistake("a key twice", "mindspeed-dpo plan --config-name conf/twice.yaml",
            "conf/twice.yaml is not valid YAML: the key stage is twice in line 9, column 3"),
    Mistake("a file of TRL", "mindspeed-dpo train --config-name conf/of_trl.yaml",
            "conf/of_trl.yaml is a file of TRL; convert it first: mindspeed-dpo migrate …"),
    Mistake("a file of ROLL", "mindspeed-dpo train --config-name conf/of_roll.yaml",
            "conf/of_roll.yaml is a file of ROLL; convert it first: mindspeed-dpo migrate …"),
)  # fmt: skip

MODELS = (
    Mistake("the name of a model on the hub", "mindspeed-dpo train model=Qwen/Qwen2.5-0.5B data=pairs.jsonl",
            "model=Qwen/Qwen2.5-0.5B does not exist; if it is a model of the Hugging Face hub, download it: "
            "hf download Qwen/Qwen2.5-0.5B --local-dir Qwen2.5-0.5B"),
    Mistake("the same in a configuration", f"{MINE} load=Qwen/Qwen2.5-0.5B",
            "load=Qwen/Qwen2.5-0.5B does not exist; if it is a model of the Hugging Face hub, download it: "
            "hf download Qwen/Qwen2.5-0.5B --local-dir Qwen2.5-0.5B"),
    Mistake("a folder with a typing error", "mindspeed-dpo train model=models/tny data=pairs.jsonl",
            "model=models/tny does not exist; did you mean models/tiny?"),
    Mistake("the folder above the model", "mindspeed-dpo train model=models data=pairs.jsonl",
            "model=models: models holds no weights; expected config.json with safetensors (Hugging Face), or "
            "latest_checkpointed_iteration.txt (Megatron)"),
    Mistake("model and data exchanged", "mindspeed-dpo train model=pairs.jsonl data=models/tiny",
            "model=pairs.jsonl is a file; name the folder with the weights and their config.json"),
    Mistake("weights of another size", f"{MINE} model.tiny.hidden_size=128",
            "models/tiny/model.safetensors: model.embed_tokens.weight is [262, 64], but the model expects [262, 128]; "
            "the sizes of the model must match the weights", 1),
    Mistake("a tokenizer other than that of the tokens", f"{MINE} data_path=tokens/other",
            "data_path tokens/other was preprocessed with another tokenizer (tokenizer_fingerprint …, this run has …); "
            "preprocess again, or use the tokenizer and template of the data", 1),
    Mistake("a module of LoRA that does not exist", f"{QUICK} lora=16 lora_target_modules=[q_prj]",
            "lora_target_modules=[q_prj] names q_prj, which cannot have an adapter; choose from …; did you mean "
            "q_proj?"),
    Mistake("an adapter to load without LoRA", f"{QUICK} lora_load=models/tiny",
            "lora_load=models/tiny has no effect without lora_target_modules, such as [all-linear]; remove it or set "
            "them"),
    Mistake("sequences longer than the model's", f"{MINE} seq_length=100000",
            "training.seq_length=100000 is more than max_position_embeddings=256 of the model"),
)  # fmt: skip

LAYOUT = (
    Mistake("a tensor-parallel size that does not divide", f"{MINE} tensor_model_parallel_size=3",
            "tensor_model_parallel_size=3 does not divide num_attention_heads=4, num_query_groups=2 and "
            "ffn_hidden_size=176; choose 1 or 2"),
    Mistake("a batch that does not divide", f"{MINE} global_batch_size=7",
            "training.global_batch_size=7 is not a multiple of micro_batch_size x data-parallel size = 4 x 1; choose 4 "
            "or 8"),
    Mistake("more processes than the cores carry",
            f"{MINE} resource_pool.actor_rollout=[64] global_batch_size=256",
            "resource_pool requests 64 processes (actor_rollout: [64]), and this machine has 2 cores, which carry at "
            "most 8 each; use fewer processes, or a cluster (ray_address)", 1, "two cores"),
    Mistake("more memory than there is", f"{MINE} resource_pool.actor_rollout=[2]",
            "resource_pool requests 2 processes (actor_rollout: [2]), which need about … of memory; 256.0 MiB are "
            "available on this machine. Use fewer processes or a smaller model", 1, "little memory"),
    Mistake("a device that is not there", f"{MINE} device=npu",
            "too few devices: resource_pool requests actor_rollout: [1], and no node has 1 NPU left for actor_rollout; "
            "the cluster's nodes: 127.0.0.1 has 0", 1),
    Mistake("a device with another name", f"{MINE} device=gpu",
            "training.device=gpu is not supported; choose auto, cpu, cuda or npu"),
    Mistake("an address at which no Ray responds", f"{MINE} ray_address=127.0.0.1:1",
            "no Ray cluster responds at 127.0.0.1:1 (Connection refused); check ray_address or RAY_ADDRESS, or unset "
            "both", 1),
    Mistake("an address without a port", f"{MINE} ray_address=localhost",
            "ray_address=localhost should be host:port of a Ray cluster's head, such as 10.0.0.1:6344", 1),
)  # fmt: skip

OUTPUTS = (
    Mistake("an output folder that cannot be written", "mindspeed-dpo plan --config-name conf/mine.yaml "
            "output_dir=/proc/run",
            "error: /proc/run cannot be written: No such file or directory; set output_dir to a folder that can be "
            "written", 1),
    Mistake("a file as output folder", f"{MINE} output_dir=pairs.jsonl",
            "training.output_dir=pairs.jsonl cannot be created: … is a file; choose another folder"),
    Mistake("a full disk", f"{MINE} save=outputs/checkpoints",
            "save=outputs/checkpoints has 0.0 MiB free, and a checkpoint of this run takes about …; free space there "
            "or set save to a folder on another disk", 1, "full disk"),
    Mistake("the folder of another run", f"{MINE} output_dir=outputs/first",
            "outputs/first/checkpoints contains the checkpoints of another run; resume that one with "
            "resume_from=outputs/first/checkpoints, choose another output_dir or save, or move them away", 1),
    Mistake("a folder without checkpoint to resume", f"{MINE} resume_from=models/tiny",
            "models/tiny holds no checkpoint: latest_checkpointed_iteration.txt is missing; give the `save` folder of "
            "a run", 1),
    Mistake("resuming with another batch size", f"{MINE} resume_from=outputs/first global_batch_size=16",
            f"{_CHECKPOINT} cannot be resumed, as its data order would change: global_batch_size was 8, is 16. Restore "
            "these values, or start a new run from its weights with load and finetune=true", 1),
    Mistake("resuming with another model", f"{MINE} resume_from=outputs/first model.tiny.num_layers=4",
            f"{_CHECKPOINT} … num_layers", 1),
    Mistake("a report of a folder without run", "mindspeed-dpo report models/tiny",
            "mindspeed-dpo report: models/tiny holds neither metrics.jsonl nor config.yaml; give the output_dir of a "
            "run"),
)  # fmt: skip

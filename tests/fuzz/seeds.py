"""Small valid files of every kind, written without megatron-core and without a process group."""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.data.datasets.reference_cache import ReferenceCache
from mindspeed_dpo.data.indexed.column_group import PAIR_COLUMNS, RANKING_COLUMNS
from mindspeed_dpo.data.indexed.column_group_writer import writing
from mindspeed_dpo.engine.checkpoints.rollout_checkpoint import write_rollouts
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import FORMAT
from mindspeed_dpo.weights import open_weights
from mindspeed_dpo.weights.conversion.conversion_request import ConversionRequest
from mindspeed_dpo.weights.conversion.convert import convert
from tests.fuzz.data_targets import write_data_files
from tests.fuzz.migration_targets import write_foreign_files
from tests.fuzz.model_targets import write_model_files
from tests.fuzz.reward_targets import write_reply

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
HF_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 13,
    "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "max_position_embeddings": 32, "rope_theta": 1e4,
    "tie_word_embeddings": False, "torch_dtype": "float32",
}  # fmt: skip


EXPERTS_CONFIG = {
    **HF_CONFIG, "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": 2,
    "num_experts_per_tok": 1, "moe_intermediate_size": 6, "head_dim": 4, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "norm_topk_prob": True,
}  # fmt: skip


_EXPERT = ".local_experts."


def write_hf(folder: Path, config: dict[str, Any] = HF_CONFIG) -> Path:
    """A folder of one shard with an index."""
    folder.mkdir(parents=True)
    tensors = hf_tensors() if config is HF_CONFIG else expert_tensors()
    shard = "model-00001-of-00001.safetensors"
    save_file(tensors, folder / shard)
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(tensors, shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_bin(folder: Path) -> Path:
    """A folder whose weights are a file of `torch.save`."""
    folder.mkdir(parents=True)
    torch.save(hf_tensors(), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(HF_CONFIG))
    return folder


def hf_tensors() -> dict[str, torch.Tensor]:
    """Random weights of the model of `HF_CONFIG`."""
    layer = {
        "self_attn.q_proj": (8, 8), "self_attn.k_proj": (4, 8), "self_attn.v_proj": (4, 8), "self_attn.o_proj": (8, 8),
        "mlp.gate_proj": (12, 8), "mlp.up_proj": (12, 8), "mlp.down_proj": (8, 12), "input_layernorm": (8,),
        "post_attention_layernorm": (8,),
    }  # fmt: skip
    shapes = {f"model.layers.0.{name}.weight": shape for name, shape in layer.items()}
    shapes |= {"model.embed_tokens.weight": (13, 8), "model.norm.weight": (8,), "lm_head.weight": (13, 8)}
    return {name: torch.rand(shape) for name, shape in shapes.items()}


def expert_tensors() -> dict[str, torch.Tensor]:
    """Random weights of the model of `EXPERTS_CONFIG`."""
    tensors = {name: tensor for name, tensor in hf_tensors().items() if ".mlp." not in name}
    layer = "model.layers.0"
    tensors |= {f"{layer}.self_attn.{name}_norm.weight": torch.rand(4) for name in "qk"}
    tensors[f"{layer}.mlp.gate.weight"] = torch.rand(2, 8)
    for expert in range(2):
        for name, shape in (("gate_proj", (6, 8)), ("up_proj", (6, 8)), ("down_proj", (8, 6))):
            tensors[f"{layer}.mlp.experts.{expert}.{name}.weight"] = torch.rand(shape)
    return tensors


def write_legacy(folder: Path, hf: Path) -> Path:
    """A rank file, with what training adds to it."""
    convert(ConversionRequest(hf, folder))
    file = folder / "iter_0000001/mp_rank_00/model_optim_rng.pt"
    content = torch.load(file, weights_only=False)
    rng = {"random_rng_state": (3, (1, 2), None), "np_rng_state": np.random.RandomState(0).get_state()}
    torch.save({**content, "optimizer": {"state": {0: {"step": 1}}}, "rng_state": [rng]}, file)
    return folder


def write_dist(folder: Path, hf: Path) -> Path:
    """An iteration of a training checkpoint: metadata, chunks, common values, objects and rollouts."""
    weights = open_weights(hf)
    model = weights.model_config()
    iteration = folder / "iter_0000002"
    iteration.mkdir(parents=True)
    tensors = dict(weights.local_tensors(model, _placement(model)))
    state: dict[str, Any] = {name: tensor.clone() for name, tensor in tensors.items() if _EXPERT not in name}
    for first in [name for name in tensors if f"{_EXPERT}0." in name]:
        # Megatron-core stacks the experts of a layer.
        experts = [tensors[first.replace(f"{_EXPERT}0.", f"{_EXPERT}{number}.")] for number in range(2)]
        state[first.replace(f"{_EXPERT}0.", ".")] = torch.stack(experts)
    state["optimizer.state.exp_avg.decoder.final_layernorm.weight"] = torch.ones(8)
    state["rng/shard_0.0.0_1.1.1"] = [{"host": torch.get_rng_state(), "device": torch.get_rng_state(), "tracker": {}}]
    writer = dcp.FileSystemWriter(iteration, thread_count=1)
    dcp.save(state, storage_writer=writer, planner=dcp.DefaultSavePlanner(flatten_state_dict=False), no_dist=True)
    torch.save({"step_count": 2}, iteration / "common.pt")
    backends = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
    (iteration / "metadata.json").write_text(
        json.dumps({**backends, "common_backend": "torch", "common_backend_version": 1})
    )
    write_rollouts(iteration, _rollouts())
    (iteration / "mindspeed_dpo.json").write_text(json.dumps(description(model)))
    (folder / "latest_checkpointed_iteration.txt").write_text("2")
    return folder


def _placement(model: ModelConfig) -> Any:
    from mindspeed_dpo.weights import ParallelLayout

    return ParallelLayout().placement(model.num_layers, 0, 0)


def description(model: ModelConfig) -> dict[str, Any]:
    """The metadata that training writes, with every key."""
    return {
        "format": FORMAT, "iteration": 2, "optimizer": True, "rng": True, "model": model.as_dict(), "files": {},
        "topology": {"tp": 1, "pp": 1, "dp": 1, "cp": 1, "chunks": 1}, "totals": {"pairs": 3},
        "usual_margin": 0.5, "usual_margin_std": 0.25,
        "sampling": {"seed": 1, "rows": 4, "weights": [1.0]}, "reference": None, "output_dir": "/out",
        "online_method": None,
        "progress": {"metric": "eval/loss", "step": 1, "value": 0.5, "folder": "/a", "counted": 0.5, "waited": 0},
        "adapters": None,
    }  # fmt: skip


def _rollouts() -> RolloutBatch:
    samples = PreferenceBatch.from_lists([[1, 2]], [[[3, 4], [5]]])
    return RolloutBatch(
        samples, torch.tensor([0]), torch.tensor([[True, False]]), torch.zeros(1, 2, dtype=torch.float64), 1
    )


def write_adapter(folder: Path) -> Path:
    """A PEFT folder."""
    folder.mkdir(parents=True)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    save_file(
        {f"{name}A.weight": torch.ones(2, 8), f"{name}B.weight": torch.ones(8, 2)}, folder / "adapter_model.safetensors"
    )
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "/base", "revision": None, "r": 2,
        "lora_alpha": 4, "bias": "none", "lora_dropout": 0.0, "use_rslora": False, "use_dora": False,
        "target_modules": ["q_proj"], "modules_to_save": None, "init_lora_weights": True, "inference_mode": True,
        "rank_pattern": {}, "alpha_pattern": {}, "layers_to_transform": None, "fan_in_fan_out": False,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def write_pairs(prefix: Path) -> Path:
    """Token files of pairs with text columns."""
    with writing(prefix, PAIR_COLUMNS, ("margin",)) as writer:
        for row in range(5):
            ids, labels = [1, 2, 3 + row], [-100, -100, 3 + row]
            columns = dict(zip(PAIR_COLUMNS, (ids, labels, ids, labels), strict=True))
            writer.append(columns, {"margin": json.dumps(row / 2)})
        writer.commit({"tokenizer_fingerprint": "a", "prompt_type": "b", "template_fingerprint": "c"})
    return prefix


def write_rankings(prefix: Path) -> Path:
    """Token files of rankings of two to four responses."""
    with writing(prefix, RANKING_COLUMNS) as writer:
        for row in range(5):
            ids, labels, between = [1, 2, 3 + row], [-100, -100, 3 + row], [7, 8, 9][: row % 3 + (row % 3 > 0)]
            lengths = [[], [2], [1, 2]][row % 3]
            values = (ids, labels, ids, labels, between, between, lengths)
            writer.append(dict(zip(RANKING_COLUMNS, values, strict=True)))
        writer.commit({})
    return prefix


def write_inputs(folder: Path) -> Path:
    """Raw rows in every format that preprocessing reads."""
    folder.mkdir(parents=True)
    rows = [
        {
            "prompt": f"p{n}",
            "chosen": "ä" * n,
            "rejected": "no",
            "score": n / 2,
            "messages": [{"role": "user", "content": "c"}],
        }
        for n in range(6)
    ]
    text = "\n".join(json.dumps(row) for row in rows)
    (folder / "rows.jsonl").write_text(text + "\n")
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    table = pyarrow.Table.from_pylist(rows)
    codes = pyarrow.array(["a", "b", "a", "b", "a", "a"]).dictionary_encode()
    table = table.append_column("kind", codes).append_column(
        "day", pyarrow.array([1, 2, 3, 4, 5, None], pyarrow.timestamp("us"))
    )
    for name, options in (("plain", None), ("packed", pyarrow.ipc.IpcWriteOptions(compression="zstd"))):
        with pyarrow.ipc.new_file(str(folder / f"{name}.arrow"), table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=3)
    with pyarrow.ipc.new_stream(str(folder / "stream.arrow"), table.schema) as writer:
        writer.write_table(table)
    pyarrow.parquet.write_table(table, folder / "rows.parquet", compression="zstd")
    return folder


def write_logs(folder: Path) -> Path:
    """What a run logs and reads again when it resumes."""
    (folder / "trackers").mkdir(parents=True)
    lines = [json.dumps({"step": step, "loss/total": 0.5, "lr": "NaN"}) for step in range(1, 4)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "trackers/wandb.json").write_text('{"id": "abc", "step": 3}\n')
    ReferenceCache(folder, "print", 3).append(np.arange(3), np.zeros((3, 2)))
    return folder


def write_configs(folder: Path) -> Path:
    """A configuration with its model file."""
    (folder / "rlxf/model").mkdir(parents=True)
    shutil.copy(CONFIGS / "rlxf/offline_dpo_trainer_tiny.yaml", folder / "rlxf/mine.yaml")
    shutil.copy(CONFIGS / "model/tiny.yaml", folder / "rlxf/model/tiny.yaml")
    return folder


def legacy_args() -> argparse.Namespace:
    """Args with objects of other packages, as training stores them."""
    return argparse.Namespace(hidden_size=8, rank=0)


def write_seeds(root: Path) -> Path:
    """Write all seeds below a folder and return it."""
    hf = write_hf(root / "hf")
    write_bin(root / "bin")
    write_legacy(root / "legacy", hf)
    write_dist(root / "dist", hf)
    experts = write_hf(root / "experts/hf", EXPERTS_CONFIG)
    write_legacy(root / "experts/legacy", experts)
    write_dist(root / "experts/dist", experts)
    write_adapter(root / "adapter")
    write_pairs(root / "pairs")
    write_rankings(root / "rankings")
    write_inputs(root / "inputs")
    write_logs(root / "logs")
    write_configs(root / "configs")
    (root / "tokenizer.json").write_text(
        '{"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2, "content": "c"}]}'
    )
    write_model_files(root)
    write_data_files(root)
    write_reply(root)
    write_foreign_files(root)
    return root

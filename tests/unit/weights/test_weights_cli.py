"""`convert_ckpt.py` as a user calls it."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from convert_ckpt import FAILURE, USAGE, main
from mindspeed_dpo.weights.conversion.cli import parse
from mindspeed_dpo.weights.conversion.cli_flags import NO_EFFECT, REJECTED, UsageError
from mindspeed_dpo.weights.layer_placement import ParallelLayout
from mindspeed_dpo.weights.legacy.expert_storage import ExpertDivision, ExpertForm, ExpertStorage

HfFolder = Callable[[str], Path]
ROOT = Path(__file__).parents[3]
MINIMAL = ["--load-dir", "a", "--save-dir", "b"]


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def published(folder: Path, target: Path, family: str, *more: str) -> list[object]:
    """The call MindSpeed-LLM's guide gives."""
    return [
        "--use-mcore-models", "--model-type", "GPT", "--model-type-hf", family, "--load-model-type", "hf",
        "--save-model-type", "mg", "--params-dtype", "bf16", "--target-tensor-parallel-size", 2,
        "--target-pipeline-parallel-size", 1, "--load-dir", folder, "--save-dir", target,
        "--tokenizer-model", folder / "tokenizer.json", *more,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "family", "more"),
    [
        ("llama", "llama2", ()),
        ("mistral", "llama2", ()),
        ("qwen2", "llama2", ("--add-qkv-bias",)),
        ("qwen2", "qwen25", ()),
        ("qwen3", "qwen3", ("--spec", "mindspeed_llm.tasks.models.spec.qwen3_spec", "layer_spec")),
    ],
)
def test_published_calls_work_there_and_back(
    hf_folder: HfFolder,
    name: str,
    family: str,
    more: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(*published(hf_folder(name), tmp_path / "mg", family, *more)) == 0
    assert (tmp_path / "mg/iter_0000001/mp_rank_01/model_optim_rng.pt").is_file()
    original = shutil.copytree(hf_folder(name), tmp_path / "original")
    before = {file: file.read_bytes() for file in original.iterdir()}
    assert run("--load-model-type", "mg", "--save-model-type", "hf", "--model-type", "GPT", "--model-type-hf", family,
               "--load-dir", tmp_path / "mg", "--save-dir", original) == 0  # fmt: skip
    assert {file: file.read_bytes() for file in original.iterdir() if file.is_file()} == before, (
        "the source is untouched"
    )
    result = load_file(original / "mg2hf/model.safetensors")
    expected = load_file(original / "model.safetensors")
    assert all(torch.equal(result[key], expected[key].bfloat16()) for key in expected)
    assert json.loads((original / "mg2hf/config.json").read_text())["torch_dtype"] == "bfloat16"
    assert "done: " in capsys.readouterr().out


def test_without_a_target_form_megatron_files_are_written_and_counted(
    hf_folder: HfFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert run("--load-dir", hf_folder("llama"), "--save-dir", tmp_path / "mg") == 0
    assert any((tmp_path / "mg").rglob("*.pt"))
    assert re.search(rf"wrote 27 tensors \(27 float32\), 0\.\d\d MB, to {tmp_path}/mg", caplog.text)


def test_tokenizer_and_config_travel_along(hf_folder: HfFolder, tmp_path: Path) -> None:
    source = shutil.copytree(hf_folder("llama"), tmp_path / "source")
    (source / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "modeling_own.py").write_text("raise SystemExit")
    assert run("--load-dir", source, "--save-dir", tmp_path / "mg") == 0
    shutil.rmtree(source)
    assert run("--load-dir", tmp_path / "mg", "--save-model-type", "hf", "--save-dir", tmp_path / "hf") == 0
    names = {file.name for file in (tmp_path / "hf").iterdir()}
    assert {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "model.safetensors",
    } == names


def test_a_config_folder_makes_up_for_a_checkpoint_without_one(hf_folder: HfFolder, tmp_path: Path) -> None:
    assert run("--load-dir", hf_folder("llama"), "--save-dir", tmp_path / "mg") == 0
    shutil.rmtree(tmp_path / "mg/hf")
    export = ["--load-dir", tmp_path / "mg", "--save-model-type", "hf", "--save-dir", tmp_path / "out"]
    assert run(*export) == FAILURE
    assert run(*export, "--hf-cfg-dir", hf_folder("llama")) == 0
    assert (tmp_path / "out/model.safetensors").stat().st_mode & 0o044, "others may read it"


def test_a_tokenizer_larger_than_the_vocabulary_is_reported(
    hf_folder: HfFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = shutil.copytree(hf_folder("llama"), tmp_path / "source")
    tokenizer = {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 93, "content": "<pad>"}]}
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert run("--load-dir", source, "--save-dir", tmp_path / "mg") == 0
    assert "the tokenizer has 94 ids, but the model only 93" in caplog.text


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--target-pipeline-paralel-size", "2"], "did you mean --target-pipeline-parallel-size?"),
        (["--model-type-hf", "deepseek3"], "deepseek3 is not supported; supported: llama,"),
        (["--model-type-hf", "deepseek3"], "missing: multi-latent attention"),
        (["--model-type-hf", "qwen33"], "did you mean qwen3?"),
        (["--model-type-hf", "baichuan2"], "supported: llama, llama2, llama3, mistral, qwen2, qwen25, qwen3"),
        (["--model-type-hf", "qwen3", "--add-qkv-bias"], "contradicts"),
        (["--model-type", "BERT"], "only GPT"),
        (["--load-model-type", "optim"], "optimizer states"),
        (["--moe-tp-extend-ep"], "--moe-tp-extend-ep needs --moe-grouped-gemm"),
        (["--expert-tensor-parallel-size", "2"], "give 1, or the tensor-parallel size 1"),
        (
            [
                "--moe-tp-extend-ep",
                "--moe-grouped-gemm",
                "--expert-tensor-parallel-size",
                "2",
                "--target-tensor-parallel-size",
                "2",
            ],
            "keeps experts whole",
        ),
        (["--target-expert-parallel-size", "0"], "at least 1"),
        (["--num-layer-list", "4,x"], "numbers separated by commas"),
        (["--num-layer-list", "2,2", "--noop-layers", "1"], "cannot be combined"),
        (["--mtp-num-layers", "1"], "--drop-mtp-layers leaves them out"),
        (["--schedules-method", "dualpipev"], "dualpipev"),
        (["--w-pack", "True"], "packed"),
        (["--ckpt-format", "torch_dist"], "only torch"),
        (["--params-dtype", "int8"], "invalid choice"),
        (["--target-tensor-parallel-size", "0"], "at least 1"),
        *[([flag, "x"] if values == 1 else [flag], reason) for flag, (values, reason) in REJECTED.items()],
    ],
)
def test_invalid_command_lines_are_reported_with_the_reason(
    more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*MINIMAL, *more) == USAGE
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("flag", NO_EFFECT)
def test_flags_without_effect_say_so(flag: str, caplog: pytest.LogCaptureFixture) -> None:
    values, reason = NO_EFFECT[flag]
    count = values if isinstance(values, int) else 1
    parse([*MINIMAL, flag, *["x"] * count])
    assert (f"{flag} has no effect: {reason}" in caplog.text) == (flag != "--tokenizer-model")


def test_flags_reach_the_request() -> None:
    request = parse(
        [*MINIMAL, "--target-tensor-parallel-size", "2", "--target-pipeline-parallel-size", "2", "--noop-layers", "1,3",
         "--num-layers-per-virtual-pipeline-stage", "1", "--params-dtype", "fp16", "--true-vocab-size", "9",
         "--make-vocab-size-divisible-by", "8", "--load-checkpoint-loosely", "--overwrite", "--hf-cfg-dir", "c",
         "--num-layers", "4", "--load-model-type", "mg", "--save-model-type", "hf", "--model-type-hf", "llama2",
         "--orm"]
    )  # fmt: skip
    assert request.layout == ParallelLayout(2, 2, layers_per_virtual_stage=1, noop_layers=(1, 3))
    assert (request.dtype, request.vocab_size, request.vocab_multiple) == (torch.float16, 9, 8)
    assert request.loosely and request.overwrite and request.reward_model and request.hf_config_dir == Path("c")
    assert (request.num_layers, request.load_format, request.save_format) == (4, "mg", "hf")
    assert request.families == {"llama", "qwen2"}


def test_both_spellings_of_the_expert_size_are_accepted() -> None:
    for name in ("--target-expert-parallel-size", "--target-expert-model-parallel-size"):
        assert parse([*MINIMAL, name, "2"]).layout == ParallelLayout(ep=2)
    with pytest.raises(UsageError, match="--save-dir"):
        parse(["--load-dir", "a"])


@pytest.mark.parametrize(
    ("flags", "storage"),
    [
        ([], ExpertStorage()),
        (["--moe-grouped-gemm"], ExpertStorage(ExpertForm.GROUPED)),
        (["--moe-grouped-gemm", "--moe-tp-extend-ep"], ExpertStorage(ExpertForm.GROUPED, ExpertDivision.EXTENDED)),
        (["--moe-grouped-gemm", "--transformer-impl", "transformer_engine"], ExpertStorage(ExpertForm.NUMBERED)),
        (["--expert-tensor-parallel-size", "1"], ExpertStorage(division=ExpertDivision.UNSLICED)),
        (["--expert-tensor-parallel-size", "2"], ExpertStorage()),
        (["--moe-grouped-gemm", "--save-model-type", "hf"], ExpertStorage()),
    ],
)
def test_flags_about_experts_reach_the_request(flags: list[str], storage: ExpertStorage) -> None:
    request = parse([*MINIMAL, "--target-tensor-parallel-size", "2", "--first-k-dense-replace", "3", *flags])
    assert (request.storage, request.first_k_dense, request.reads_extended) == (storage, 3, None)


def test_a_model_with_experts_goes_there_and_back(hf_folder: HfFolder, tmp_path: Path) -> None:
    source = hf_folder("glm4_moe")
    to_mcore = [
        "--load-dir",
        source,
        "--save-dir",
        tmp_path / "mg",
        "--model-type-hf",
        "glm45-moe",
        "--use-mcore-models",
    ]
    layout = ["--target-tensor-parallel-size", 2, "--target-pipeline-parallel-size", 2, "--num-layer-list", "1,1"]
    experts = ["--target-expert-parallel-size", 2, "--moe-grouped-gemm", "--moe-tp-extend-ep"]
    assert run(*to_mcore, *layout, *experts, "--first-k-dense-replace", 2) == FAILURE
    assert run(*to_mcore, *layout, *experts, "--first-k-dense-replace", 1) == 0
    assert (tmp_path / "mg/iter_0000001/mp_rank_01_001_001/model_optim_rng.pt").is_file()
    to_hf = ["--load-dir", tmp_path / "mg", "--save-dir", tmp_path / "hf", "--save-model-type", "hf"]
    assert run(*to_hf, "--moe-grouped-gemm", "--moe-tp-extend-ep") == 0
    result, expected = load_file(tmp_path / "hf/model.safetensors"), load_file(source / "model.safetensors")
    assert all(torch.equal(result[key], expected[key]) for key in expected)


def test_flags_about_experts_of_a_dense_model_say_that_they_have_no_effect(
    hf_folder: HfFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run("--load-dir", hf_folder("llama"), "--save-dir", tmp_path / "mg", "--moe-grouped-gemm") == 0
    assert "the flags about experts have no effect" in caplog.text
    more = ["--target-expert-parallel-size", 2, "--overwrite"]
    assert run("--load-dir", hf_folder("llama"), "--save-dir", tmp_path / "mg", *more) == FAILURE


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--model-type-hf", "qwen3"], "of the family llama, but the flags expect qwen3"),
        (["--add-qkv-bias"], "of the family llama, but the flags expect qwen2"),
        (["--num-layers", "5"], "--num-layers is 5, but the model has 4"),
        (["--true-vocab-size", "90"], "contradicts vocab_size=93"),
        (["--load-model-type", "mg"], "is a Hugging Face folder; give --load-model-type hf"),
        (["--save-model-type", "hf", "--target-tensor-parallel-size", "2"], "has no parallel layout"),
        (["--target-pipeline-parallel-size", "3"], "3 pipeline stages do not divide 4 layers"),
    ],
)
def test_requests_the_weights_cannot_meet_are_reported(
    hf_folder: HfFolder, more: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--load-dir", hf_folder("llama"), "--save-dir", tmp_path / "out", *more) == FAILURE
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folders_that_hold_other_things_are_never_replaced(hf_folder: HfFolder, tmp_path: Path) -> None:
    assert run("--load-dir", hf_folder("llama"), "--save-dir", tmp_path / "mg") == 0
    diary = tmp_path / "home/diary.txt"
    diary.parent.mkdir()
    diary.write_text("x")
    assert (
        run("--load-dir", tmp_path / "mg", "--save-model-type", "hf", "--save-dir", diary.parent, "--overwrite")
        == FAILURE
    )
    assert diary.read_text() == "x"


def test_conversion_needs_neither_megatron_nor_ray() -> None:
    forbidden = ["megatron", "ray", "transformers", "omegaconf", "hydra", "torch_npu"]
    code = f"import sys, convert_ckpt; print([name for name in {forbidden} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_misspelt_flag_is_named_and_not_the_one_that_is_missing_because_of_it() -> None:
    with pytest.raises(UsageError, match="unknown flag --load-dr; did you mean --load-dir"):
        parse(["--load-model-type", "hf", "--load-dr", "a", "--save-dir", "b"])

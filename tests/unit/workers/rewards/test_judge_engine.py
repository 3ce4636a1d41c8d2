"""The engine of a judge model over a stand-in of vLLM, and what its folder and vLLM are checked for."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from mindspeed_dpo.config.settings.reward_sources import RewardConfig
from mindspeed_dpo.vllm_engine.engine_process import EngineFailure
from mindspeed_dpo.workers.rewards.judge_engine import JudgeEngine, JudgeText, judge_sampling, start_judge_process
from mindspeed_dpo.workers.rewards.judge_files import open_judge_files
from mindspeed_dpo.workers.rewards.judge_model_setup import check_judge_columns, check_judge_model
from tests.support.judge_models import POSITIONS, save_judge_folder
from tests.support.tokenizers import save_tokenizer
from tests.support.vllm_python import stand_in_python
from tests.unit.workers.rewards.sample_rollouts import Columns, tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_judge_folder(tmp_path / "judge")


def settings_of(folder: Path, engine: Any = (), **keys: Any) -> RewardConfig:
    python = str(stand_in_python(folder.parent))
    return RewardConfig(
        judge_model=str(folder), judge_max_new_tokens=50, judge_vllm={"python": python, **dict(engine)}, **keys
    )


def check(settings: RewardConfig) -> Any:
    return check_judge_model(SimpleNamespace(reward=settings))  # type: ignore[arg-type]


def test_texts_come_in_the_order_of_the_questions_and_an_engine_that_fails_is_named(folder: Path) -> None:
    says = [tokenizer().encode(text, add_special_tokens=False) for text in ("even [[2]]", "odd [[1]]")]
    settings = settings_of(folder, {"says": says})
    process = start_judge_process(settings, folder.parent / "logs" / "judge.log", {})
    try:
        engine = JudgeEngine(process, tokenizer(), judge_sampling(settings, frozenset({2})))
        texts = engine.write([[5], [5, 6], [7]], [1, 2, 3])
        assert texts == [JudgeText(text, is_complete=True) for text in ("odd [[1]]", "even [[2]]", "odd [[1]]")]
        engine.check_alive()
        os.kill(process.pid, signal.SIGSTOP)
        process._settings = replace(process._settings, timeout_s=1.0)
        with pytest.raises(
            EngineFailure, match=r"hangs in generate: no progress for 1 s; .* raise judge_vllm\.timeout_s"
        ):
            engine.write([[5]], [1])
        with pytest.raises(
            EngineFailure, match=r"^the vLLM engine of judge_model \(process \d+, .* killed by signal 9"
        ):
            engine.write([[5]], [1])
        with pytest.raises(EngineFailure, match=r"^the vLLM engine of judge_model .* killed by signal 9"):
            engine.check_alive()
    finally:
        process.close()
    assert not psutil.pid_exists(process.pid)


def test_model_arguments_and_interpreter_are_checked_before_a_run(folder: Path) -> None:
    assert check(settings_of(folder)).vllm == "0.0.stand-in"
    with pytest.raises(ValueError, match=r"^judge_model=.*: vLLM 0.0.stand-in of .* refuses it: .* 'tensor_size'"):
        check(settings_of(folder, {"tensor_size": 2}))
    with pytest.raises(ValueError, match=r"^judge_vllm\.python=/no/python cannot be run"):
        check(settings_of(folder, {"python": "/no/python"}))
    change(folder, architectures=["OtherForCausalLM"])
    with pytest.raises(ValueError, match="refuses it: it has no model OtherForCausalLM"):
        check(settings_of(folder))


def change(folder: Path, **config: Any) -> None:
    old = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**old, **config}), encoding="utf-8")


def test_what_a_folder_lacks_is_named(folder: Path, tmp_path: Path) -> None:
    assert open_judge_files(settings_of(folder)).max_question_length == POSITIONS - 50
    (folder / "tokenizer_config.json").rename(folder / "kept")
    (folder / "tokenizer_config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json.*; judge_model should name another directory$"):
        open_judge_files(settings_of(folder))
    (folder / "kept").rename(folder / "tokenizer_config.json")
    save_tokenizer(tmp_path / "endless", eos=None)
    (tmp_path / "endless" / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "endless" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"neither tokenizer nor generation_config\.json of .* has an end token"):
        open_judge_files(settings_of(tmp_path / "endless"))
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        open_judge_files(settings_of(tmp_path / "nothing"))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"^judge_model: .* has no tokenizer"):
        open_judge_files(settings_of(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no weights"):
        open_judge_files(settings_of(folder))
    change(folder, architectures=[])
    with pytest.raises(ValueError, match="names no architectures"):
        open_judge_files(settings_of(folder))
    change(folder, max_position_embeddings="many")
    with pytest.raises(ValueError, match=r"max_position_embeddings.*; judge_model should name another folder"):
        open_judge_files(settings_of(folder))


def test_a_question_must_fit_into_what_the_model_reads(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"judge_max_new_tokens=50 leaves no tokens .*, which reads 50; lower it"):
        open_judge_files(settings_of(folder, {"max_model_len": 50}))
    with pytest.raises(ValueError, match=r"cannot be asked even about an empty response: its question has \d+ tokens"):
        check(settings_of(folder, {"max_model_len": 90}))
    of_images = {"model_type": "gemma3", "text_config": {"max_position_embeddings": 70}}
    (folder / "config.json").write_text(json.dumps({"architectures": ["G"], **of_images}), encoding="utf-8")
    assert open_judge_files(settings_of(folder)).max_question_length == 20


def test_columns_that_a_question_shows_must_be_in_the_data() -> None:
    settings = RewardConfig(judge_model="judge", dataset_additional_keys=("labels", "other"))
    check_judge_columns(settings, Columns({"labels": str, "other": str}))
    with pytest.raises(ValueError, match=r"names other, but the prompt set has only the columns messages, labels"):
        check_judge_columns(settings, Columns({"labels": str}))

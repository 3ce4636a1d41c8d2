"""Online, a run whose responses could never end is refused before any device is taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mindspeed_dpo.trainers.run_inputs import open_inputs
from tests.support.tokenizers import save_tokenizer
from tests.unit.workers.rollouts import online_run


def test_a_run_without_an_end_token_is_refused_at_the_start(tmp_path: Path) -> None:
    run = online_run(tmp_path, (1, 1, 1), 1)
    save_tokenizer(tmp_path / "tokenizer", eos=None)
    generation = tmp_path / "hf" / "generation_config.json"
    generation.write_text("{}")
    with pytest.raises(ValueError, match="tokenizer has no end token, nor do prompt_type=None and generation_config"):
        open_inputs(run)
    generation.write_text(json.dumps({"eos_token_id": [7]}))
    assert open_inputs(run).first_step == 0

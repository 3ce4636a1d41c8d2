"""Raw rows through the command line give exactly the token ids that TRL recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.data.datasets.dataset import PreferenceDataset
from preprocess_data import main
from tests.support.oracle import require

PLAIN = ("preferences.jsonl", "AlpacaStylePairwiseHandler", {"prompt": "prompt", "query": ""}, "plain")
CONVERSATIONAL = (
    "conversational.jsonl",
    "SharegptStylePairwiseHandler",
    {"messages": "prompt", "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user",
                                    "assistant_tag": "assistant"}},
    "chat_template",
)  # fmt: skip


def preprocess(tmp_path: Path, data: tuple[str, str, dict[str, Any], str]) -> str:
    file, handler, map_keys, prompt_type = data
    prefix = str(tmp_path / "pairs")
    code = main(
        [
            *("--input", str(require("oracle", file)), "--output-prefix", prefix, "--handler-name", handler),
            *("--map-keys", json.dumps(map_keys), "--prompt-type", prompt_type),
            *("--tokenizer-name-or-path", str(require("oracle", "policy"))),
        ]
    )
    assert code == 0
    return prefix


@pytest.mark.parametrize(
    ("case", "data", "seq_length"),
    [("sigmoid", PLAIN, 64), ("sigmoid_conversational", CONVERSATIONAL, 64), ("sigmoid_trunc", PLAIN, 24)],
)
def test_rows_carry_the_recorded_token_ids(
    tmp_path: Path, case: str, data: tuple[str, str, dict[str, Any], str], seq_length: int
) -> None:
    recorded = json.loads(require("oracle", "cases", f"{case}.json").read_text())
    dataset = PreferenceDataset.open(preprocess(tmp_path, data), seq_length=seq_length, truncation="keep_start")
    position = 0
    for micro_batch in recorded["micro_batches"]:
        count = len(micro_batch["rows"])
        batch = dataset.batch(range(position, position + count))
        position += count
        prompts, responses = batch.prompts(), batch.responses()
        for place, (ids, mask) in enumerate(zip(micro_batch["input_ids"], micro_batch["completion_mask"], strict=True)):
            answer, pair = divmod(place, count)
            prompt, response = prompts[pair].tolist(), responses[pair][answer].tolist()
            length = sum(micro_batch["attention_mask"][place])
            assert prompt + response == ids[:length]
            assert [0] * len(prompt) + [1] * len(response) == mask[:length]


def test_truncation_drops_the_rows_that_were_dropped(tmp_path: Path) -> None:
    recorded = json.loads(require("oracle", "cases", "sigmoid_trunc.json").read_text())
    dataset = PreferenceDataset.open(preprocess(tmp_path, PLAIN), seq_length=24, truncation="keep_start")
    prompts = [json.loads(line)["prompt"] for line in require("oracle", "preferences.jsonl").read_text().splitlines()]
    survivors = [row for row, prompt in enumerate(prompts) if len(prompt.encode()) < 24]
    used = [row for micro_batch in recorded["micro_batches"] for row in micro_batch["rows"]]
    assert len(dataset) == len(survivors) == dataset.counts.read - dataset.counts.dropped["too_long"]
    assert survivors[: len(used)] == used
    assert dataset.counts.responses_cut > 0

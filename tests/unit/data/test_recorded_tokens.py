"""Raw rows through the command line give exactly the token ids that TRL trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindspeed_dpo.data.datasets.preference_dataset import PreferenceDataset
from preprocess_data import main
from tests.recordings.batches import of_case
from tests.recordings.files import read_rows, recording
from tests.support.recorded_runs import preprocess_arguments


def preprocessed(tmp_path: Path, case: str) -> PreferenceDataset:
    recorded = recording(case)
    assert main(preprocess_arguments(recorded["data"], tmp_path / "pairs")) == 0
    prefix = str(tmp_path / "pairs")
    return PreferenceDataset.open(prefix, seq_length=recorded["max_length"], truncation="keep_start")


@pytest.mark.parametrize("case", ["sigmoid", "sigmoid_conversational", "sigmoid_trunc"])
def test_rows_carry_the_recorded_token_ids(tmp_path: Path, case: str) -> None:
    # `record.py` holds the batches made here from raw rows against TRL's own when it records.
    dataset = preprocessed(tmp_path, case)
    position = 0
    for micro_batch in of_case(recording(case)):
        count = len(micro_batch.rows)
        batch = dataset.batch(range(position, position + count))
        position += count
        prompts, responses = batch.prompts(), batch.responses()
        for place in range(2 * count):
            side, pair = divmod(place, count)
            prompt, response = prompts[pair].tolist(), responses[pair][side].tolist()
            length = int(micro_batch.attention[place].sum())
            assert prompt + response == micro_batch.ids[place, :length].tolist()
            assert [0] * len(prompt) + [1] * len(response) == micro_batch.response[place, :length].tolist()


def test_truncation_drops_the_rows_that_were_dropped(tmp_path: Path) -> None:
    dataset = preprocessed(tmp_path, "sigmoid_trunc")
    survivors = [row for row, pair in enumerate(read_rows("preferences.jsonl")) if len(pair["prompt"].encode()) < 24]
    used = [row for micro_batch in recording("sigmoid_trunc")["micro_batches"] for row in micro_batch["rows"]]
    assert len(dataset) == len(survivors) == dataset.counts.num_rows - dataset.counts.dropped["too_long"]
    assert survivors[: len(used)] == used
    assert dataset.counts.responses_cut > 0

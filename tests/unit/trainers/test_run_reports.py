"""What a run leaves for its report: facts at its start, margins at evaluations, and the page itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mindspeed_dpo.batches import PreferenceBatch
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.failures import WorkerFailure
from mindspeed_dpo.data.tokenization.decoding import as_numbers, decoder_of
from mindspeed_dpo.processes.exit_codes import FAILED
from mindspeed_dpo.report.run_facts import read_run_facts
from mindspeed_dpo.report.sample_files import read_pair_margins
from mindspeed_dpo.trainers import build
from mindspeed_dpo.trainers.evaluated_pairs import NUM_EXAMPLES, EvaluatedPairs
from mindspeed_dpo.trainers.facts_for_report import length_histograms
from tests.support.recorded_pages import Page
from tests.support.runs import train
from tests.unit.workers.pairs import PAIRS, random_run


class Numbered:
    """Pairs whose tokens are made of their row number."""

    def batch(self, rows: list[int]) -> PreferenceBatch:
        (row,) = rows
        return PreferenceBatch(
            prompt_tokens=torch.tensor([row, row], dtype=torch.int32),
            prompt_lengths=torch.tensor([2], dtype=torch.int32),
            response_tokens=torch.tensor([10 * row, 100 * row], dtype=torch.int32),
            response_lengths=torch.tensor([[1, 1]], dtype=torch.int32),
        )


def test_the_most_extreme_pairs_of_all_sets_are_recorded_by_margin(tmp_path: Path) -> None:
    sets = {"a": np.arange(8), "b": np.arange(20, 28)}
    margins = {"a": np.array([3.0, -5, 0, np.nan, 1, 1, 1, 1]), "b": np.linspace(-0.5, 9, 8)}
    EvaluatedPairs(tmp_path, Numbered(), lambda: as_numbers).write(7, sets, margins)
    recorded = read_pair_margins(tmp_path)
    assert recorded.step == 7 and sum(recorded.margins.counts) == 15
    assert len(recorded.examples) == 2 * NUM_EXAMPLES
    shown = [example.margin for example in recorded.examples]
    finite = sorted(value for value in np.concatenate(list(margins.values())) if np.isfinite(value))
    assert shown == pytest.approx(finite[:NUM_EXAMPLES] + finite[-NUM_EXAMPLES:])
    smallest, largest = recorded.examples[0], recorded.examples[-1]
    assert (smallest.prompt, smallest.chosen, smallest.rejected) == ("1 1", "10", "100")
    assert (largest.prompt, largest.chosen, largest.rejected) == ("27 27", "270", "2700")


def test_each_pair_is_recorded_once_where_there_are_few(tmp_path: Path) -> None:
    EvaluatedPairs(tmp_path, Numbered(), lambda: as_numbers).write(1, {"a": np.arange(3)}, {"a": np.array([2.0, 0, 1])})
    assert [example.margin for example in read_pair_margins(tmp_path).examples] == [0.0, 1.0, 2.0]


def test_nothing_is_recorded_where_no_margin_is_finite(tmp_path: Path) -> None:
    EvaluatedPairs(tmp_path, Numbered(), lambda: as_numbers).write(1, {"a": np.arange(1)}, {"a": np.array([np.nan])})
    assert not list(tmp_path.iterdir())


def test_lengths_share_their_bins_and_leave_out_what_does_not_exist() -> None:
    columns = {"chosen": np.array([5, 7, 7], np.int32), "rejected": np.array([0, 30, 9], np.int32)}
    histograms = length_histograms(columns)
    assert {one.start for one in histograms.values()} == {histograms["chosen"].start}
    assert {one.width for one in histograms.values()} == {2.0}
    assert {name: sum(one.counts) for name, one in histograms.items()} == {"chosen": 3, "rejected": 2}
    assert length_histograms({"none": np.zeros(2, np.int32)}) == {}


def test_a_folder_without_a_tokenizer_gives_numbers(tmp_path: Path) -> None:
    assert decoder_of(None)([1, 2]) == decoder_of(tmp_path)([1, 2]) == "1 2"


def test_a_damaged_tokenizer_gives_numbers_and_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    assert decoder_of(tmp_path)([1, 2]) == "1 2"
    assert "texts are shown as token ids" in caplog.text


def test_the_last_page_shows_what_ended_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def groups(config: RunConfig) -> Iterator[dict[str, Any]]:
        yield {}
        assert (tmp_path / "out" / "report.html").is_file(), "the page is written before the processes are ended"

    def fail(*_: Any) -> None:
        raise WorkerFailure("actor_rollout rank 1 failed: the process died")

    monkeypatch.setattr(build, "worker_groups", groups)
    monkeypatch.setattr(build, "offline_trainer", fail)
    assert build.train(random_run(tmp_path, report=True)) == FAILED
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert "actor_rollout rank 1 failed: the process died" in page.text


@pytest.mark.distributed
def test_a_run_has_a_report_unless_it_is_switched_off(tmp_path: Path) -> None:
    keys = {"train_iters": 2, "split": "60,40,0", "eval_interval": 1}
    run = random_run(tmp_path, report=True, **keys)
    with_report = train(run)
    folder = Path(run.loop.output_dir)
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    page.assert_is_self_contained()
    assert "step 2" in page.text and "eval" in page.legends
    facts, margins = read_run_facts(folder), read_pair_margins(folder)
    assert facts.plan[0] == "plan: dpo, 2 steps" and facts.environment["torch"] == torch.__version__
    assert sum(facts.lengths["prompt"].counts) + sum(margins.margins.counts) == len(PAIRS)
    mean = sum(example.margin for example in margins.examples) / len(margins.examples)
    assert mean == pytest.approx(with_report[-1]["eval/rewards/margins"], rel=1e-5, abs=1e-7)
    without = random_run(tmp_path, output_dir=tmp_path / "other", **keys)
    losses = [[step["loss"] for step in steps] for steps in (with_report, train(without))]
    assert losses[0] == losses[1]
    assert not {"report.html", "run.json", "eval_margins.json"} & {path.name for path in (tmp_path / "other").iterdir()}
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["time"] > 1.7e9 for line in lines)

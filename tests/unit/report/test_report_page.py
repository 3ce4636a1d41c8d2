"""The page of a run: nothing from outside, every curve, and texts that stay texts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mindspeed_dpo.report.page import REPORT_FILE, write_report
from mindspeed_dpo.report.run_folder import NotARunError, read_run
from tests.support.recorded_pages import CONFIG, HTML, Page, metrics_lines, run_folder

LARGEST_PAGE_BYTES = 2_000_000


def page_of(*folders: Path) -> tuple[Page, str]:
    output = folders[0].parent / "page.html"
    write_report(folders, output)
    html = output.read_text(encoding="utf-8")
    return Page(html), html


def test_texts_from_outside_are_escaped_wherever_they_stand(tmp_path: Path) -> None:
    page, html = page_of(run_folder(tmp_path / "run"))
    page.assert_is_self_contained()
    assert "<script" not in html and "\0" not in html and "\x1b" not in html
    # A prompt with 3 responses, 2 pairs of 3 texts, a plan line, a note, a warning, a value of the environment.
    assert page.text.count(HTML) == 4 + 6 + 4


def test_every_metric_of_the_run_has_a_curve_and_evaluations_lie_beside_training(tmp_path: Path) -> None:
    page, html = page_of(run_folder(tmp_path / "run"))
    assert page.titles[:4] == ["Loss", "Reward margin", "Accuracy", "Rewards"]
    expected = {"Gradient norm", "Time per phase", "Peak memory", "Pairs per second", "Learning rate", "loss/sft"}
    expected |= {"Lengths of the training data", "Scores of sample responses", "Lengths of sample responses"}
    assert expected <= set(page.titles) and "Reward margins of the evaluation at step 12" in page.titles
    assert page.legends[:3] == ["train", "eval chat", "eval code"]
    assert html.count("<svg") == html.count("<figure>") == len(page.titles)
    # Histograms: prompts, responses, scores of both roles, margins.
    assert len(page.legends) == len(read_run(tmp_path / "run").curves.by_name) + 5
    assert "step 12 of 12" in page.text and "0:00:11 since the first" in page.text


def test_what_ran_is_said(tmp_path: Path) -> None:
    page, _ = page_of(run_folder(tmp_path / "run"))
    for text in ("offline_dpo_trainer_tiny / run", "models/tiny", "data/pairs", "plan: dpo, 12 steps", "2.7.1"):
        assert text in page.text, text
    assert "3 warnings" not in page.text and "2 warnings" in page.text
    assert "-1.5" in page.text and "2.5" in page.text


def test_two_runs_lie_side_by_side_with_what_differs(tmp_path: Path) -> None:
    other = CONFIG.replace("0.001", "0.005")
    one = run_folder(tmp_path / "one")
    two = run_folder(tmp_path / "two", other, metrics_lines(6))
    page, _ = page_of(one, two)
    page.assert_is_self_contained()
    assert page.legends[:6] == [
        "one train", "one eval chat", "one eval code", "two train", "two eval chat", "two eval code",
    ]  # fmt: skip
    rows = re.search(r"key\s*one\s*two\s*(.*?)\s*Preferences", page.text, re.DOTALL)
    assert rows is not None and rows[1] == "actor_rollout_ref.actor_rollout.lr0.0010.005"
    # A chart of one run with several metrics is one chart per metric here.
    assert {"Rewards: chosen", "Rewards: rejected"} <= set(page.titles)


def test_runs_of_the_same_folder_name_are_told_apart(tmp_path: Path) -> None:
    page, _ = page_of(run_folder(tmp_path / "a" / "run"), run_folder(tmp_path / "b" / "run"))
    assert page.legends[0] == "a/run train" and "b/run train" in page.legends


def test_a_run_that_has_just_begun_or_is_of_an_older_version_has_a_page(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    page, _ = page_of(folder)
    assert "No step is done yet." in page.text
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 0.7}\n{"step": 2, "lo')
    page, _ = page_of(folder)
    assert page.titles == ["Loss"] and "step 1 of 12" in page.text


def test_damaged_files_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    (folder / "run.json").write_text("{")
    (folder / "samples.jsonl").write_text('{"step": "x"}\n')
    page, _ = page_of(folder)
    assert "Loss" in page.titles
    assert f"{folder / 'run.json'}" in page.text and f"{folder / 'samples.jsonl'}" in page.text


def test_values_that_are_not_finite_are_counted_and_leave_gaps(tmp_path: Path) -> None:
    lines = re.sub('("step": 2,.*?"loss": )[0-9.]+', r'\1"NaN"', metrics_lines(3))
    run = read_run(run_folder(tmp_path / "run", metrics=lines))
    assert run.curves.by_name["loss"].num_not_finite == 1
    assert list(run.curves.by_name["loss"].steps) == [1, 3]


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [1e-12, 3e9], [-1e300, 1e300], [1e-320]])
def test_any_finite_values_can_be_drawn(tmp_path: Path, values: list[float]) -> None:
    lines = "".join(json.dumps({"step": step, "loss": value}) + "\n" for step, value in enumerate(values))
    page, _ = page_of(run_folder(tmp_path / "run", metrics=lines))
    assert page.titles[0] == "Loss"


def test_a_long_run_has_a_small_page(tmp_path: Path) -> None:
    lines = []
    for step in range(1, 3001):
        names = [*(f"eval/set{number}/loss" for number in range(4)), "loss", "grad_norm", "rewards/margins"]
        names += [f"loss/term{number}" for number in range(60)]
        lines.append(json.dumps({"step": step, **dict.fromkeys(names, step * 37 % 101 / 7)}) + "\n")
    _, html = page_of(run_folder(tmp_path / "run", metrics="".join(lines)))
    assert len(html.encode()) < LARGEST_PAGE_BYTES


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotARunError, match=r"holds neither metrics.jsonl nor config.yaml; give the output_dir"):
        read_run(tmp_path)
    with pytest.raises(NotARunError, match="is not a folder"):
        read_run(tmp_path / "none")


def test_a_browser_draws_it(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium; apt-get install chromium")
    folder = run_folder(tmp_path / "run")
    write_report([folder], folder / REPORT_FILE)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [browser, *options, (folder / REPORT_FILE).as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    # As the browser has understood it: no element more than the page has, and all curves within their pages.
    understood = Page(done.stdout)
    understood.assert_is_self_contained()
    assert understood.titles == Page((folder / REPORT_FILE).read_text(encoding="utf-8")).titles


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "samples.jsonl", "run.json", "eval_margins.json", "logs/driver_0.log"]
)
def test_a_pipe_in_place_of_a_file_is_named_and_not_waited_for(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: a\n")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / name)
    (sentence,) = read_run(tmp_path).unreadable
    assert sentence.startswith(f"{tmp_path / name} is a pipe, where a file is expected")

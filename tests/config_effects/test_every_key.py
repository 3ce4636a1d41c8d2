"""Every setting has its documented effect. A key without a row in one of the tables fails the suite."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.settings.registry import SETTINGS
from mindspeed_dpo.device import find_accelerator
from mindspeed_dpo.trainers import build_online
from mindspeed_dpo.workers import colocated_roles
from mindspeed_dpo.workers.setup.stop_tokens import stop_ids
from tests.config_effects import comparison
from tests.config_effects.comparison import KeyChange, Keys, metrics, offline, online, plan
from tests.config_effects.covered_by_tests import COVERED_BY_TESTS
from tests.config_effects.dry_run_keys import OFFLINE_PLAN
from tests.config_effects.offline_keys import DATA, LEARNING, LOSS
from tests.config_effects.online_keys import PAIRING, SAMPLING
from tests.unit.workers.pairs import write_pairs

pytestmark = pytest.mark.distributed

OFFLINE = {**LEARNING, **LOSS, **DATA}
ONLINE = {**SAMPLING, **PAIRING}
TESTED_HERE = {
    "fp16", "eval_iters", "log_interval", "distributed_timeout_minutes", "prompt_type", "prompt_type_path",
    "md5_validate", "log_samples_interval", "reward_timeout_s",
}  # fmt: skip
"""Keys that a test of this file covers by name."""


def test_every_setting_is_covered() -> None:
    covered = [*OFFLINE, *ONLINE, *OFFLINE_PLAN, *COVERED_BY_TESTS, *TESTED_HERE]
    assert sorted(set(SETTINGS) - set(covered)) == []
    assert sorted(set(covered) - set(SETTINGS)) == []
    assert sorted({key for key in covered if covered.count(key) > 1}) == []


@pytest.mark.parametrize("key", COVERED_BY_TESTS)
def test_the_test_that_covers_a_key_exists(key: str) -> None:
    COVERED_BY_TESTS[key].check(key)


def located(keys: Keys) -> dict[str, Any]:
    """Replace names of datasets by paths."""
    sets = {
        "numbers": comparison.pairs_with_numbers,
        "others": lambda: write_pairs(comparison.folder() / "others", OTHERS),
    }
    return {key: sets[value]() if key == "data_path" else value for key, value in keys.items()}


OTHERS = [([1, 2], [3, 4], [5]), ([6], [7], [8, 9]), ([10], [11], [12]), ([13], [14], [15, 16]), ([17], [18], [19])]


@pytest.mark.parametrize("key", OFFLINE)
def test_a_key_changes_its_metric_offline(key: str) -> None:
    change = OFFLINE[key]
    assert isinstance(change, KeyChange)
    before = metrics(offline, located(change.context))
    after = metrics(offline, located({**change.context, key: change.to}))
    assert differs(before, after, change.metric)


@pytest.mark.parametrize("key", ONLINE)
def test_a_key_changes_its_metric_online(key: str) -> None:
    change = ONLINE[key]
    assert isinstance(change, KeyChange)
    before = metrics(online, change.context)
    assert differs(before, metrics(online, {**change.context, key: change.to}), change.metric)


def differs(first: list[dict[str, float]], second: list[dict[str, float]], name: str) -> bool:
    """Whether a metric of two runs differs in any step."""
    before, after = ([step.get(name) for step in steps] for steps in (first, second))
    assert any(value is not None for value in (*before, *after)), f"no run writes {name}"
    return before != after


@pytest.mark.parametrize("key", OFFLINE_PLAN)
def test_a_key_changes_the_plan(key: str) -> None:
    change = OFFLINE_PLAN[key]
    context = dict(change.context)
    layout = {"layout": (1, 1, context.pop("resource_pool", 1))}
    assert plan(offline, {**layout, **context}) != plan(offline, {**layout, **context, key: change.to})


def test_float16_is_refused() -> None:
    with pytest.raises(ConfigError, match="fp16=true is refused: float16 is not implemented yet"):
        offline({"fp16": True})


def test_eval_iters_says_how_many_rows_are_measured() -> None:
    keys = {"eval_interval": 3, "split": "40,60,0", "global_batch_size": 1, "micro_batch_size": 1}
    one, three = (metrics(offline, {**keys, "eval_iters": count})[-1] for count in (1, 3))
    name = next(name for name in one if name.startswith("eval") and name.endswith("logps/chosen"))
    assert one[name] != three[name]


def test_log_interval_spaces_the_progress_lines(caplog: pytest.LogCaptureFixture) -> None:
    def lines(interval: int) -> int:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            comparison.train(offline({"log_interval": interval, "train_iters": 5}))
        return sum("iteration:" in record.getMessage() for record in caplog.records)

    assert lines(1) == 5 and lines(4) == 3


def test_distributed_timeout_minutes_reaches_the_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(colocated_roles.process_groups, "join", lambda *arguments: seen.append(arguments[4]))
    monkeypatch.setattr(colocated_roles.process_groups, "split", lambda topology, minutes: seen.append(minutes))
    run = offline({"distributed_timeout_minutes": 7})
    colocated_roles.ColocatedRoles.join(run, run.actor, find_accelerator("cpu"), 0, 1, "host:1")
    assert seen == [7, 7]


def test_prompt_type_sets_what_ends_a_response(tmp_path: Path) -> None:
    run = online({})
    templates = tmp_path / "templates.json"
    templates.write_text('[{"name": "own", "format_user": {"slots": ["{{content}}"]}, "stop_words": ["~"]}]')
    plain = stop_ids(run.actor)
    data = replace(run.actor.data, prompt_type="own", prompt_type_path=str(templates))
    assert stop_ids(replace(run.actor, data=data)) > plain


def test_md5_validate_requests_digests_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def handle(*groups: Any, validate: bool, **options: Any) -> Any:
        seen.append(validate)
        raise InterruptedError

    monkeypatch.setattr(build_online, "RolloutGroup", handle)
    for validate in (True, False):
        with pytest.raises(InterruptedError):
            comparison.train(online({"md5_validate": validate}))
    assert seen == [True, False]


def test_log_samples_interval_writes_a_table_of_responses() -> None:
    runs = {interval: online({"log_samples_interval": interval}) for interval in (None, 1)}
    for run in runs.values():
        comparison.train(run)
    tables = {interval: list(Path(run.loop.output_dir).glob("samples*")) for interval, run in runs.items()}
    assert tables[None] == [] and len(tables[1]) == 1


def test_reward_timeout_s_ends_the_wait_for_a_function() -> None:
    functions = {"reward_functions": ["tests.support.reward_functions.stuck"], "reward_failure": "stop"}
    with pytest.raises(Exception, match=r"1\.5 s"):
        comparison.train(online({**functions, "reward_timeout_s": 1.5}))

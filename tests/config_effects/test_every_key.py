"""Every key of the schema changes what it says it changes. A key without a row here fails the suite."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.settings.registry import SETTINGS
from mindspeed_dpo.device import find_accelerator
from mindspeed_dpo.trainers import build
from mindspeed_dpo.workers import colocated_roles
from mindspeed_dpo.workers.setup.sources import stop_ids
from tests.config_effects import comparison
from tests.config_effects.comparison import Keys, Turn, metrics, offline, online, plan
from tests.config_effects.covered_by_tests import ELSEWHERE
from tests.config_effects.dry_run_keys import OFFLINE_PLAN
from tests.config_effects.offline_keys import DATA, LEARNING, LOSS
from tests.config_effects.online_keys import PAIRING, SAMPLING
from tests.unit.workers.pairs import write_pairs

pytestmark = pytest.mark.distributed

OFFLINE = {**LEARNING, **LOSS, **DATA}
ONLINE = {**SAMPLING, **PAIRING}
HERE = {
    "fp16", "eval_iters", "log_interval", "distributed_timeout_minutes", "prompt_type", "prompt_type_path",
    "md5_validate", "log_samples_interval", "reward_timeout_s",
}  # fmt: skip
"""Keys that a test of this file turns by name."""


def test_every_key_of_the_schema_is_turned() -> None:
    turned = [*OFFLINE, *ONLINE, *OFFLINE_PLAN, *ELSEWHERE, *HERE]
    assert sorted(set(SETTINGS) - set(turned)) == []
    assert sorted(set(turned) - set(SETTINGS)) == []
    assert sorted({key for key in turned if turned.count(key) > 1}) == []


@pytest.mark.parametrize("key", ELSEWHERE)
def test_the_test_that_turns_a_key_is_there(key: str) -> None:
    ELSEWHERE[key].check(key)


def located(keys: Keys) -> dict[str, Any]:
    """Names of data as paths."""
    sets = {
        "numbers": comparison.pairs_with_numbers,
        "others": lambda: write_pairs(comparison.folder() / "others", OTHERS),
    }
    return {key: sets[value]() if key == "data_path" else value for key, value in keys.items()}


OTHERS = [([1, 2], [3, 4], [5]), ([6], [7], [8, 9]), ([10], [11], [12]), ([13], [14], [15, 16]), ([17], [18], [19])]


@pytest.mark.parametrize("key", OFFLINE)
def test_a_key_moves_its_metric_offline(key: str) -> None:
    turn = OFFLINE[key]
    assert isinstance(turn, Turn)
    usual = metrics(offline, located(turn.beside))
    turned = metrics(offline, located({**turn.beside, key: turn.to}))
    assert moved(usual, turned, turn.moves)


@pytest.mark.parametrize("key", ONLINE)
def test_a_key_moves_its_metric_online(key: str) -> None:
    turn = ONLINE[key]
    assert isinstance(turn, Turn)
    usual = metrics(online, turn.beside)
    assert moved(usual, metrics(online, {**turn.beside, key: turn.to}), turn.moves)


def moved(usual: list[dict[str, float]], turned: list[dict[str, float]], name: str) -> bool:
    before, after = ([step.get(name) for step in steps] for steps in (usual, turned))
    assert any(value is not None for value in (*before, *after)), f"no run writes {name}"
    return before != after


@pytest.mark.parametrize("key", OFFLINE_PLAN)
def test_a_key_changes_the_plan(key: str) -> None:
    turn = OFFLINE_PLAN[key]
    beside = dict(turn.beside)
    layout = {"layout": (1, 1, beside.pop("resource_pool", 1))}
    assert plan(offline, {**layout, **beside}) != plan(offline, {**layout, **beside, key: turn.to})


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
    monkeypatch.setattr(colocated_roles.groups, "join", lambda *arguments: seen.append(arguments[4]))
    monkeypatch.setattr(colocated_roles.groups, "split", lambda topology, minutes: seen.append(minutes))
    run = offline({"distributed_timeout_minutes": 7})
    colocated_roles.ColocatedRoles.join(run, run.actor, find_accelerator("cpu"), 0, 1, "host:1")
    assert seen == [7, 7]


def test_prompt_type_tells_what_ends_an_answer(tmp_path: Path) -> None:
    run = online({})
    templates = tmp_path / "templates.json"
    templates.write_text('[{"name": "own", "format_user": {"slots": ["{{content}}"]}, "stop_words": ["~"]}]')
    plain = stop_ids(run.actor)
    data = replace(run.actor.data, prompt_type="own", prompt_type_path=str(templates))
    assert stop_ids(replace(run.actor, data=data)) > plain


def test_md5_validate_asks_for_digests_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def handle(*groups: Any, validate: bool, **options: Any) -> Any:
        seen.append(validate)
        raise InterruptedError

    monkeypatch.setattr(build, "RolloutGroup", handle)
    for validate in (True, False):
        with pytest.raises(InterruptedError):
            comparison.train(online({"md5_validate": validate}))
    assert seen == [True, False]


def test_log_samples_interval_writes_a_table_of_answers() -> None:
    runs = {interval: online({"log_samples_interval": interval}) for interval in (None, 1)}
    for run in runs.values():
        comparison.train(run)
    tables = {interval: list(Path(run.loop.output_dir).glob("samples*")) for interval, run in runs.items()}
    assert tables[None] == [] and len(tables[1]) == 1


def test_reward_timeout_s_ends_the_wait_for_a_function() -> None:
    functions = {"reward_functions": ["tests.support.reward_functions.stuck"], "reward_failure": "stop"}
    with pytest.raises(Exception, match=r"1\.5 s"):
        comparison.train(online({**functions, "reward_timeout_s": 1.5}))

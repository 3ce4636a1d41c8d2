"""Tokens of Ray: a secret in memory for a run's own cluster, the cluster's own for one that is joined."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mindspeed_dpo.controller.authentication import MODE, TOKEN, TOKEN_PATH, VARIABLES, private_token, token_of


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def current() -> dict[str, str]:
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def test_a_run_s_own_cluster_has_a_secret_that_is_new_and_in_no_file(tmp_path: Path) -> None:
    with private_token():
        first = current()
    with private_token():
        second = current()
    assert first[MODE] == second[MODE] == "token"
    assert len(first[TOKEN]) == len(second[TOKEN]) == 64 and first[TOKEN] != second[TOKEN]
    assert current() == {} and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("chosen", [{MODE: "disabled"}, {TOKEN: "mine"}, {TOKEN_PATH: "/some/file"}])
def test_a_user_s_choice_stands(chosen: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    with private_token():
        assert current() == chosen
    assert current() == chosen


def test_a_cluster_without_authentication_is_joined_without_it(tmp_path: Path) -> None:
    write_token(tmp_path)
    with token_of({"HOME": str(tmp_path)}):
        assert current() == {}


def test_a_cluster_s_own_token_is_used(tmp_path: Path) -> None:
    with token_of({MODE: "token", TOKEN: "theirs"}):
        assert current() == {MODE: "token", TOKEN: "theirs"}
    with token_of({MODE: "token", TOKEN_PATH: "/their/file"}):
        assert current() == {MODE: "token", TOKEN_PATH: "/their/file"}
    with token_of({MODE: "token", "HOME": "/their/home"}):
        assert current() == {MODE: "token", TOKEN_PATH: "/their/home/.ray/auth_token"}
    assert current() == {}


def test_a_mode_that_the_user_has_set_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODE, "disabled")
    with token_of({MODE: "token", TOKEN: "theirs"}):
        assert current() == {MODE: "disabled"}


def test_where_nothing_can_be_read_of_a_cluster_an_own_token_is_offered(tmp_path: Path) -> None:
    with token_of({}):
        assert current() == {}
    write_token(tmp_path)
    with token_of({}):
        assert current() == {MODE: "token"}


def write_token(home: Path) -> None:
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("mine")

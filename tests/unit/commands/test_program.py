"""`python -m mindspeed_dpo` is the program `mindspeed-dpo`."""

from __future__ import annotations

import runpy
import sys

import pytest

import mindspeed_dpo


def test_the_package_is_the_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["mindspeed_dpo", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("mindspeed_dpo", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"mindspeed-dpo {mindspeed_dpo.__version__}\n"

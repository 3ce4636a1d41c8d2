"""The table of operators against a wheel of torch_npu, where one is named; the wheel is read, never imported."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

import pytest
import torch

from tests.support.npu_facts import LIBRARY, SCHEMAS, VERSIONS, operators

WHEEL = "MINDSPEED_DPO_NPU_WHEEL"


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_schema_is_one_that_torch_can_read(name: str) -> None:
    schema = torch._C.parse_schema(SCHEMAS[name][1])
    assert schema.name == name and set(SCHEMAS[name][0]) <= set(VERSIONS)


def test_the_table_says_what_the_named_wheel_has() -> None:
    wheel = Path(os.environ.get(WHEEL, ""))
    if not wheel.is_file():
        pytest.skip(f"{WHEEL} names no wheel of torch_npu")
    version = re.match(r"torch_npu-([^-]+)-", wheel.name)
    assert version is not None and version[1] in VERSIONS, f"the table has {VERSIONS}, the wheel is {wheel.name}"
    library = zipfile.ZipFile(wheel).read(LIBRARY)
    for name, schema in operators(version[1]).items():
        assert b"\0" + schema.encode() + b"\0" in library, name
    for name in SCHEMAS.keys() - operators(version[1]).keys():
        assert b"\0" + name.encode() + b"(" not in library, name

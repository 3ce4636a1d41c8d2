"""Interpolations: what they expand to is bounded, and ordinary ones are not touched."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf
from omegaconf.base import Container
from omegaconf.errors import InterpolationResolutionError

from mindspeed_dpo.config.loading.interpolations import limited_interpolations


def resolved(**values: object) -> object:
    with limited_interpolations():
        return OmegaConf.to_container(OmegaConf.create(values), resolve=True)


def chain(link: object, length: int = 20) -> dict[str, object]:
    """Values that each refer to the one before, in the form that `link` has for z."""
    values: dict[str, object] = {"z0": "x" * 10}
    for number in range(1, length):
        text = f"${{z{number - 1}}}"
        if isinstance(link, str):
            values[f"z{number}"] = link.replace("z", text)
        else:
            values[f"z{number}"] = [text, {"a": text}] if isinstance(link, list) else {"a": text, "b": text}
    return dict(reversed(values.items()))


@pytest.mark.parametrize("link", ["zz", "z,z,z", "${oc.decode:z}z", [], {}], ids=str)
def test_a_chain_that_expands_without_end_is_refused(link: object) -> None:
    with pytest.raises(InterpolationResolutionError, match="more than"):
        resolved(**chain(link))


def test_a_large_section_in_many_places_is_refused() -> None:
    with pytest.raises(InterpolationResolutionError, match="expand to more than"):
        resolved(big=["x" * 1000] * 100, places=["${big}"] * 500)


def test_ordinary_interpolations_are_resolved() -> None:
    assert resolved(a="/x", b="${a}/y", c={"d": "${..b}", "e": "${c.d}-${a}"}) == {
        "a": "/x", "b": "/x/y", "c": {"d": "/x/y", "e": "/x/y-/x"},
    }  # fmt: skip


def test_omegaconf_is_as_before_afterwards() -> None:
    before = Container.resolve_parse_tree
    with pytest.raises(InterpolationResolutionError):
        resolved(**chain("zz"))
    assert Container.resolve_parse_tree is before

"""How a check says what is wrong, and how that becomes a sentence naming the section and the value.

A check yields what is wrong, blaming the first key it names. A key blamed once is not blamed again, so one mistake is
one problem; the order of checks is therefore the order of causes.
"""

from __future__ import annotations

from typing import NamedTuple

from mindspeed_dpo.config.issues import Issues
from mindspeed_dpo.config.loading.parse import format_value
from mindspeed_dpo.config.run import RoleConfig, RunConfig

_SECTION = {"ref": "actor_rollout_ref.ref.", "reward": "reward."}


class Violation(NamedTuple):
    """What is wrong with the first of `keys` given the others; `says` finishes the sentence "key=value …"."""

    keys: tuple[str, ...]
    says: str


def report(run: RunConfig, role: RoleConfig, wrong: Violation, findings: Issues) -> None:
    """Add what is wrong with a role, telling in which section the blamed value stands."""
    key = wrong.keys[0]
    origin = run.origins.get(f"{role.name}.{key}") or run.origins.get(f"loop.{key}")
    value = {**vars(run.loop), **role.settings(), **_pools(run)}[key]
    section = origin.section + "." if origin else "resource_pool." if key in run.pools else _SECTION.get(role.name, "")
    findings.problem(f"{section}{key}={format_value(value)} {wrong.says}", *wrong.keys, role=role.name)


def _pools(run: RunConfig) -> dict[str, list[int]]:
    return {name: list(sizes) for name, sizes in run.pools.items()}

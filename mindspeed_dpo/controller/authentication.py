"""Ray's token authentication: a secret of its own for a cluster that a run starts, the cluster's own for one it joins.

Ray reads the mode and the token from environment variables. Without a token in them it would write one into the home
folder, readable by all, and a client that does not match the mode of its cluster waits without a sign. Releases of Ray
without authentication ignore the variables.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
VARIABLES = (MODE, TOKEN, TOKEN_PATH)
ENABLED = "token"


@contextmanager
def private_token() -> Iterator[None]:
    """Give this process and its children a new token, unless the user has chosen a mode or a token.

    The token exists in the memory of the run's processes only.
    """
    chosen = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    with variables(chosen or {MODE: ENABLED, TOKEN: secrets.token_hex(32)}):
        yield


@contextmanager
def token_of(environment: Mapping[str, str]) -> Iterator[None]:
    """Use the mode and the token of a cluster, unless the user has chosen a mode.

    Args:
        environment: Environment of the cluster's process on this machine; empty if this user may not read it.
    """
    with variables(_matching(environment)):
        yield


def _matching(environment: Mapping[str, str]) -> dict[str, str]:
    own = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    if MODE in own:
        return own
    if not environment:
        has_token = any(name in own for name in (TOKEN, TOKEN_PATH)) or token_file(os.environ).is_file()
        return {**own, MODE: ENABLED} if has_token else own
    if environment.get(MODE, "").lower() != ENABLED:
        return own
    theirs = {name: environment[name] for name in (TOKEN, TOKEN_PATH) if environment.get(name)}
    return {MODE: ENABLED, **(theirs or {TOKEN_PATH: str(token_file(environment))})}


def token_file(environment: Mapping[str, str]) -> Path:
    """Return the file in which Ray looks for a token by default."""
    return Path(environment.get("HOME") or Path.home(), ".ray", "auth_token")


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set exactly these of the variables of authentication for the block, and then restore them."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    _set(values)
    try:
        yield
    finally:
        _set({name: value for name, value in before.items() if value is not None})


def _set(values: Mapping[str, str]) -> None:
    for name in VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(values)
    # Ray caches what it has read and has no public function to clear the cache.
    with suppress(ImportError):
        from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()

"""Imports the user's function at a dotted path and reads its parameters. Runs in the child process of `sandbox`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
from collections.abc import Callable
from typing import Any

from mindspeed_dpo.config.name_suggestions import did_you_mean
from mindspeed_dpo.config.shipped_files import SHIPPED_PACKAGE, is_installed

Function = Callable[..., Any]


class InvalidFunction(Exception):
    """A dotted path does not name a callable; the message completes the sentence "path …"."""


def import_function(path: str) -> Function:
    """Import the callable at a dotted path: a module's function, or a method of an object in a module.

    An installed package finds `examples` of the repository among its own files, where there is no other.

    Raises:
        InvalidFunction: It does not exist, or is not callable.
    """
    words = path.split(".")
    if words[0] == "examples" and is_installed() and importlib.util.find_spec("examples") is None:
        words = [*SHIPPED_PACKAGE.split("."), *words]
    for end in range(len(words) - 1, 0, -1):
        name = ".".join(words[:end])
        try:
            target: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module exists; one that it imports does not
            continue
        for word in words[end:]:
            if not hasattr(target, word):
                hint = did_you_mean(word, [other for other in dir(target) if not other.startswith("_")])
                raise InvalidFunction(f"cannot be imported: {name} has no {word}{hint}")
            target = getattr(target, word)
        if not callable(target):
            raise InvalidFunction(f"is a {type(target).__name__}, not a function")
        return target
    raise InvalidFunction(
        f"cannot be imported: there is no module {words[0]} in {os.getcwd()} or among the installed packages"
        if len(words) > 1 and all(words)
        else "is not a dotted path such as package.module.function"
    )


def parameters_of(function: Function) -> dict[str, Any]:
    """Return the parameters a function takes by name: `names`, None for any; `required`, those without a default.

    Raises:
        InvalidFunction: A required parameter is positional-only.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some functions written in C have no signature
        return {"names": None, "required": []}
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    only_positional = [p.name for p in parameters if p.kind == p.POSITIONAL_ONLY and p.default is p.empty]
    if only_positional:
        raise InvalidFunction(f"takes {only_positional[0]} by position only; it should take its arguments by name")
    takes_any = any(p.kind == p.VAR_KEYWORD for p in parameters)
    return {
        "names": None if takes_any else [p.name for p in named],
        "required": [p.name for p in named if p.default is p.empty],
    }

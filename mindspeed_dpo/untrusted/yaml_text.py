"""YAML: plain values only, with bounds on size, nesting, digits and what aliases expand to.

The events of a text are counted before any value is built: building recurses, and an alias may stand for a large part
of the text that contains aliases itself.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.text_files import read_text

MAX_YAML_BYTES = 1 << 18
"""Limit for a file; configurations take some kilobytes."""
MAX_DEPTH = 50
MAX_NODES = 100_000
"""Limit for keys and values with all aliases replaced by what they stand for."""
MAX_TEXT_NODES = 3000
"""The same for a file of texts, for which Hydra takes milliseconds each; the largest configurations have hundreds."""
MAX_INTERPOLATIONS = 1000
"""Limit for the marks `${` of a file of texts."""
MAX_DIGITS = 300
_NUMBER = re.compile(r"[-+.0-9a-fA-F_:xXoO]+")
_NAMELESS = '"<unicode string>", '
"""PyYAML's name of a text that is no file."""
_TAG = "tag:yaml.org,2002:{}"
_NULL, _MERGE = _TAG.format("null"), _TAG.format("merge")
_TEXT_TAGS, _REFUSED_TAGS = ("bool", "int", "float", "timestamp"), ("binary", "omap", "pairs", "set")
# libyaml accepts another dialect than Hydra, which uses the loader in Python.
_LOADER = yaml.SafeLoader


def read_yaml(path: Path) -> Any:
    """Read a YAML file that holds one document.

    Raises:
        FileNotFoundError: It does not exist.
        MalformedDataError: It is not UTF-8 or not YAML, or exceeds a limit; the message names the file.
    """
    return parse_yaml(read_text(path, MAX_YAML_BYTES), str(path))


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file of `key: value` lines; an empty one has no keys.

    Raises:
        FileNotFoundError: It does not exist.
        MalformedDataError: It is not a mapping of texts, or exceeds a limit; the message names the file.
    """
    content = read_yaml(path)
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise MalformedDataError(f"{path} should contain `key: value` lines, got a {type(content).__name__}")
    for key in content:
        if not isinstance(key, str):
            raise MalformedDataError(f"{path}: the key {key!r} is not a text; put it in quotes")
    return content


def read_yaml_texts(path: Path) -> dict[str, Any]:
    """Read a YAML file of `key: value` lines whose scalars stay the text that was written.

    YAML alone would read `2026_11_30` as 20261130 and `1e5` as 100000.0, and no reader could tell what the user typed.
    Only null (`null`, `~` or nothing) has a value of its own, None. A key may occur once.

    Raises:
        FileNotFoundError: It does not exist.
        MalformedDataError: It is not a mapping, or exceeds a limit; the message names the file.
    """
    text = read_text(path, MAX_YAML_BYTES)
    if text.count("${") > MAX_INTERPOLATIONS:
        raise MalformedDataError(f"{path} has more than {MAX_INTERPOLATIONS} interpolations ${{…}}")
    content = parse_yaml(text, str(path), _TextLoader, MAX_TEXT_NODES)
    if content is not None and not isinstance(content, dict):
        raise MalformedDataError(f"{path} should contain `key: value` lines, got a {type(content).__name__}")
    return {} if content is None else content


class _TextLoader(yaml.SafeLoader):
    """A loader that resolves nothing but null and merge keys, and accepts no key twice.

    A scalar with the tag of a number, truth value or date is a text, too; other tags are refused.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - declared by PyYAML
        first: [(tag, pattern) for tag, pattern in resolvers if tag in (_NULL, _MERGE)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    yaml_constructors = {  # noqa: RUF012 - declared by PyYAML
        **yaml.SafeLoader.yaml_constructors,
        **dict.fromkeys(map(_TAG.format, _TEXT_TAGS), yaml.SafeLoader.construct_yaml_str),
        **dict.fromkeys(map(_TAG.format, _REFUSED_TAGS), yaml.SafeLoader.construct_undefined),
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping of texts."""
        names = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _NULL:
                raise yaml.constructor.ConstructorError(None, None, "a key must be a text", key.start_mark)
            if key.value in names:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} is twice", key.start_mark)
            names.add(key.value)
        return super().construct_mapping(node, deep=deep)


def parse_yaml(text: str, location: str, loader: Any = _LOADER, max_nodes: int = MAX_NODES) -> Any:
    """Parse one YAML document to plain values.

    Args:
        text: The YAML text.
        location: The file, which begins the message of an error.
        loader: The class that decides what scalars mean.
        max_nodes: Limit for keys and values with all aliases replaced by what they stand for.

    Raises:
        MalformedDataError: It is not YAML, names a class, or exceeds a limit.
    """
    try:
        _check_events(yaml.parse(text, Loader=_LOADER), location, max_nodes)
        return yaml.load(text, Loader=loader)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError, AttributeError, KeyError) as error:
        if isinstance(error, MalformedDataError):
            raise
        reason = " ".join(str(error).split()).replace(_NAMELESS, "")[:300]
        raise MalformedDataError(f"{location} is not valid YAML: {reason}") from error


def _check_events(events: Iterator[yaml.Event], location: str, max_nodes: int) -> None:
    """Bound depth, digits and the number of nodes that a text describes."""
    anchored: dict[str, int | None] = {}
    # Names of the open collections, and the number of nodes within each so far.
    names: list[str | None] = []
    counts: list[int] = [0]
    for event in events:
        if isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            names.append(event.anchor)
            anchored.update({event.anchor: None} if event.anchor else {})
            counts.append(1)
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            count, name = counts.pop(), names.pop()
            counts[-1] += count
            anchored.update({name: count} if name else {})
        elif isinstance(event, yaml.AliasEvent):
            expanded = anchored.get(str(event.anchor))
            if expanded is None:
                raise MalformedDataError(f"{location}: the alias *{event.anchor} refers to no complete value before it")
            counts[-1] += expanded
        elif isinstance(event, yaml.ScalarEvent):
            counts[-1] += 1
            anchored.update({event.anchor: 1} if event.anchor else {})
            if len(event.value) > MAX_DIGITS and _NUMBER.fullmatch(event.value):
                raise MalformedDataError(f"{location}: a number has more than {MAX_DIGITS} digits")
        if len(names) > MAX_DEPTH:
            raise MalformedDataError(f"{location}: YAML is nested more than {MAX_DEPTH} deep")
        if counts[-1] > max_nodes:
            raise MalformedDataError(f"{location} has more than {max_nodes} keys and values")

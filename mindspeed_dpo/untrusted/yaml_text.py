"""YAML whose scalars stay the text that was written: `1.10` is no number and `on` no truth value until it is parsed.

YAML alone would read `2026_11_30` as 20261130 and `1e5` as 100000.0, and no reader could tell what the user typed. Only
null (`null`, `~` or nothing) has a value of its own.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

import yaml

from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.text_files import read_text

_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"
_MAX_DEPTH, _MAX_NODES = 100, 1_000_000


class _TextLoader(yaml.SafeLoader):
    """A loader that resolves nothing but null and merge keys, and accepts no key twice."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in (_NULL, _MERGE)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in keys:
                    raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} is twice", key.start_mark)
                keys.add(key.value)
        return super().construct_mapping(node, deep=deep)


def read_yaml_text(path: Path) -> Any:
    """Read a YAML file as mappings, lists, texts and None.

    Raises:
        FileNotFoundError: It does not exist.
        MalformedDataError: It is not YAML or not UTF-8, or has a key twice; the message names file and line.
    """
    return parse_yaml_text(read_text(path), str(path))


def parse_yaml_text(text: str, location: str) -> Any:
    """Parse YAML as mappings, lists, texts and None.

    Args:
        text: The YAML text.
        location: The file, which begins the message of an error.

    Raises:
        MalformedDataError: It is not YAML, has a key twice, or is nested too deeply.
    """
    loader = _TextLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node, location)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise MalformedDataError(f"{location} is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise MalformedDataError(f"{location}: YAML is nested more than {_MAX_DEPTH} deep") from error
    except (ValueError, TypeError) as error:
        # Explicit tags, such as !!int, convert values that may not be convertible.
        raise MalformedDataError(f"{location} is not valid YAML: {error}") from error
    finally:
        loader.dispose()


def _check_size(node: yaml.Node, location: str) -> None:
    """Check depth and size with all aliases expanded, since what is built from them is a tree."""
    level, depth, count = [node], 0, 0
    while level:
        depth, count = depth + 1, count + len(level)
        if depth > _MAX_DEPTH:
            raise MalformedDataError(f"{location}: YAML is nested more than {_MAX_DEPTH} deep")
        if count > _MAX_NODES:
            raise MalformedDataError(f"{location}: YAML has more than {_MAX_NODES} values, with its aliases expanded")
        level = [child for item in level for child in _children(item)]


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []

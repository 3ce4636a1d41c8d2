"""Values of config.json, completed with those of transformers' own config class where the file lacks them.

Only the module of the family's configuration is imported, on first use, as workers need none of it. Code in a model
folder is never run.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from mindspeed_dpo.device.hidden_modules import hidden_module
from mindspeed_dpo.untrusted.json_object import JsonObject
from mindspeed_dpo.weights.errors import HfConfigError
from mindspeed_dpo.weights.families.hf_config_keys import HfKey

# Null stands for the number of query heads in every family, but not all releases of the classes accept it.
_KEY_HEADS = "num_key_value_heads"
_TORCH_NPU = "torch_npu"


class HfValues:
    """The value of each key: that of config.json, else the default of the class, which may depend on other keys.

    Attributes:
        location: The path of config.json.
        class_name: Name of transformers' config class.
        declared: Keys that the class declares; a model of this class ignores all others.
    """

    def __init__(self, hf: JsonObject, model_type: str, keys: Iterable[HfKey]) -> None:
        """Read the keys of a config.

        Args:
            hf: The content of config.json.
            model_type: A model type that transformers knows.
            keys: The keys to read.

        Raises:
            MalformedDataError: A value of the file has another type, or exceeds a limit.
            HfConfigError: transformers' class does not accept the values.
        """
        config_class = _config_class(model_type)
        self.location, self.class_name = hf.location, config_class.__name__
        self._parameters = inspect.signature(config_class.__init__).parameters
        self.declared = frozenset(self._parameters)
        present = [key for key in keys if key.is_in(hf)]
        self._given = {key.name: key.value(hf) for key in present}
        self._config = self._build(config_class, present)

    @property
    def default_rope_theta(self) -> float:
        """Base of the rotary frequencies of a config that has none."""
        # The class is built without rotary settings: transformers 5 nests the base, transformers 4 has an attribute.
        nested = getattr(self._config, "rope_parameters", None)
        return float(nested["rope_theta"] if nested else self._config.rope_theta)

    @property
    def default_rotary_share(self) -> float:
        """Rotated share of each head of a config that has none."""
        nested = getattr(self._config, "rope_parameters", None) or {}
        beside = getattr(self._config, "partial_rotary_factor", None)
        return float(nested.get("partial_rotary_factor") or beside or 1.0)

    def get(self, name: str) -> Any:
        """The value of a key that the class declares or the file has; None where there is none."""
        if name == _KEY_HEADS and self._given.get(name, name) is None:
            return self.get("num_attention_heads")
        return getattr(self._config, name, self._given.get(name))

    def is_null_by_default(self, name: str) -> bool:
        """Whether the class declares a key with the default null, so that its models do without a value."""
        return name in self.declared and self._parameters[name].default is None

    def is_given(self, name: str) -> bool:
        """Whether config.json has the key, also as null."""
        return name in self._given

    def source_of(self, name: str) -> str:
        """A key with its value for messages, which says where a value comes from that the file lacks."""
        origin = "" if self.is_given(name) else f" (the default of {self.class_name})"
        return f"{name}={self.get(name)!r}{origin}"

    def unsupported(self, what: str, supported: str) -> HfConfigError:
        """The error about a value that is not implemented."""
        return HfConfigError(f"{self.location}: {what} is not supported; supported: {supported}")

    def _build(self, config_class: Any, present: Iterable[HfKey]) -> Any:
        given = {name: self._given[key.name] for key in present for name in key.names if name in self.declared}
        if given.get(_KEY_HEADS, _KEY_HEADS) is None:
            del given[_KEY_HEADS]
        try:
            return config_class(**given)
        except _class_errors() as error:
            reason = " ".join(str(error).split())
            raise HfConfigError(f"{self.location}: transformers' {self.class_name} refuses it: {reason}") from error


def _config_class(model_type: str) -> Any:
    """The config class of a model type in the installed transformers."""
    mapping = importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    if model_type not in mapping:
        version = importlib.import_module("transformers").__version__
        raise HfConfigError(f"transformers {version} has no model type {model_type!r}; install a newer release")
    with _without_torch_npu():
        return mapping[model_type]


@contextmanager
def _without_torch_npu() -> Iterator[None]:
    """Hide torch_npu from transformers, whose config modules import it if it is installed.

    Reading a config must not take a device, nor fail where CANN is absent; what transformers has cached meanwhile is
    forgotten.
    """
    if _TORCH_NPU in sys.modules:
        yield
        return
    try:
        with hidden_module(_TORCH_NPU):
            yield
    finally:
        availability = importlib.import_module("transformers.utils.import_utils")
        for name in ("is_torch_npu_available", "_is_package_available"):
            clear = getattr(getattr(availability, name, None), "cache_clear", None)
            if clear is not None:
                clear()


def _class_errors() -> tuple[type[Exception], ...]:
    """The errors of the config classes for values that they do not accept; newer releases have a type of their own."""
    errors = importlib.import_module("huggingface_hub.errors")
    return (ValueError, TypeError, KeyError, getattr(errors, "StrictDataclassError", ValueError))

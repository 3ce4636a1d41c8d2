"""Comparison of the shapes of stored tensors with those that a model requires."""

from __future__ import annotations

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.model_sizes import Shape
from mindspeed_dpo.weights.tensor_layouts import TensorLayout


def check_shape(actual: Shape, expected: Shape, file: object, name: str) -> None:
    """Check that a tensor has the shape that the model requires.

    Raises:
        WeightsError: The shapes differ; the message names file, tensor and both shapes.
    """
    if tuple(actual) != tuple(expected):
        raise WeightsError(
            f"{file}: {name} is {list(actual)}, but the model expects {list(expected)}; the sizes of the model "
            "must match the weights"
        )


def check_mcore_shape(
    actual: Shape, layout: TensorLayout, model: ModelConfig, tp_size: int, file: object, name: str
) -> None:
    """Check the shape of a tensor in Megatron's form; a vocabulary may be padded to any number of rows.

    Raises:
        WeightsError: The shapes differ; the message names file, tensor and both shapes.
    """
    expected = layout.mcore_shape(model, tp_size)
    if layout.is_padded and len(actual) == 2 and actual[0] * tp_size >= model.vocab_size:
        expected = (actual[0], *expected[1:])
    check_shape(actual, expected, file, name)

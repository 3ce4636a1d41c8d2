"""The one error of this room: weights that are missing, damaged or do not fit."""

from __future__ import annotations


class WeightsError(ValueError):
    """Weights are not what was asked for; the sentence names the file or the side, and the tensor."""

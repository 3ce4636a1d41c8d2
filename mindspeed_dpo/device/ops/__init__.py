"""Operators with a plain definition each: the definition is the reference, a device may have a faster form."""

from mindspeed_dpo.device.ops.attention import segment_attention
from mindspeed_dpo.device.ops.rms_norm import rms_norm
from mindspeed_dpo.device.ops.rotary import rotate
from mindspeed_dpo.device.ops.swiglu import swiglu

__all__ = ["rms_norm", "rotate", "segment_attention", "swiglu"]

"""Operators: each by its plain definition, and by an operator of torch_npu once an NPU is active.

AdamW is not among them: the optimizer is megatron-core's, which under MindSpeed calls torch's fused AdamW on NPU.
"""

from mindspeed_dpo.device.ops.attention import segment_attention
from mindspeed_dpo.device.ops.rms_norm import rms_norm
from mindspeed_dpo.device.ops.rotary import rotate
from mindspeed_dpo.device.ops.swiglu import swiglu

__all__ = ["rms_norm", "rotate", "segment_attention", "swiglu"]

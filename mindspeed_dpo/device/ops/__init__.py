"""Operators, each by its plain definition; faster forms of a device are to be compared with these."""

from mindspeed_dpo.device.ops.attention import segment_attention
from mindspeed_dpo.device.ops.block_attention import BlockAttention, Reach, block_attention
from mindspeed_dpo.device.ops.linear import Product, few_rows_product, linear, rows_to_multiply
from mindspeed_dpo.device.ops.rms_norm import rms_norm
from mindspeed_dpo.device.ops.rotary import rotate
from mindspeed_dpo.device.ops.swiglu import swiglu

__all__ = [
    "BlockAttention",
    "Product",
    "Reach",
    "block_attention",
    "few_rows_product",
    "linear",
    "rms_norm",
    "rotate",
    "rows_to_multiply",
    "segment_attention",
    "swiglu",
]

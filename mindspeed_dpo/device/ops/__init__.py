"""Operators: each by its plain definition, and by an operator of torch_npu once an NPU is active.

AdamW is not among them: the optimizer is megatron-core's, which under MindSpeed calls torch's fused AdamW on NPU.
"""

from mindspeed_dpo.device.ops.attention import segment_attention
from mindspeed_dpo.device.ops.decode_attention import BlockAttention, VisibleKeys, attends_by_slot, block_attention
from mindspeed_dpo.device.ops.decode_grouped_linear import GroupedProduct, grouped_product
from mindspeed_dpo.device.ops.decode_linear import Product, few_rows_product, linear, rows_to_multiply
from mindspeed_dpo.device.ops.fused_linear_logprobs import label_logps
from mindspeed_dpo.device.ops.grouped_linear import grouped_linear
from mindspeed_dpo.device.ops.rms_norm import rms_norm
from mindspeed_dpo.device.ops.rotary import rotate
from mindspeed_dpo.device.ops.sums import segment_sum, total
from mindspeed_dpo.device.ops.swiglu import swiglu

__all__ = [
    "BlockAttention",
    "GroupedProduct",
    "Product",
    "VisibleKeys",
    "attends_by_slot",
    "block_attention",
    "few_rows_product",
    "grouped_linear",
    "grouped_product",
    "label_logps",
    "linear",
    "rms_norm",
    "rotate",
    "rows_to_multiply",
    "segment_attention",
    "segment_sum",
    "swiglu",
    "total",
]

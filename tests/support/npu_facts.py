"""Facts read from the wheels of torch_npu, without importing them: the schemas of the operators that we call.

Each string stands in `torch_npu/lib/libtorch_npu.so` of the named wheels; `test_npu_facts.py` looks again where
`MINDSPEED_DPO_NPU_WHEEL` names a wheel. The reference torch_npu defines its operators by these strings.
"""

from __future__ import annotations

V27, V213 = "2.7.1.post4", "2.13.0"
VERSIONS = (V27, V213)

SCHEMAS: dict[str, tuple[tuple[str, ...], str]] = {
    "npu_rms_norm": (
        VERSIONS,
        "npu_rms_norm(Tensor input, Tensor gamma, float epsilon=1e-06) -> (Tensor, Tensor)",
    ),
    "npu_swiglu": (VERSIONS, "npu_swiglu(Tensor input, int dim=-1) -> Tensor"),
    "npu_rotary_mul": (
        VERSIONS,
        "npu_rotary_mul(Tensor input, Tensor r1, Tensor r2, str rotary_mode='half', Tensor? rotate=None) -> Tensor",
    ),
    "npu_fusion_attention": (
        VERSIONS,
        "npu_fusion_attention(Tensor query, Tensor key, Tensor value, int head_num, str input_layout, "
        "Tensor? pse=None, Tensor? padding_mask=None, Tensor? atten_mask=None, float scale=1., float keep_prob=1., "
        "int pre_tockens=2147483647, int next_tockens=2147483647, int inner_precise=0, int[]? prefix=None, "
        "int[]? actual_seq_qlen=None, int[]? actual_seq_kvlen=None, int sparse_mode=0, bool gen_mask_parallel=True, "
        'bool sync=False, str softmax_layout="", Tensor? sink=None, Tensor? dropout_mask=None, int seed=0, '
        "int offset=0) -> (Tensor, Tensor, Tensor, Tensor, int, int, int)",
    ),
    "npu_grouped_matmul": (
        VERSIONS,
        "npu_grouped_matmul(Tensor[] x, Tensor[] weight, *, Tensor[]? bias=None, Tensor[]? scale=None, "
        "Tensor[]? offset=None, Tensor[]? antiquant_scale=None, Tensor[]? antiquant_offset=None, "
        "Tensor[]? per_token_scale=None, Tensor? group_list=None, Tensor[]? activation_input=None, "
        "Tensor[]? activation_quant_scale=None, Tensor[]? activation_quant_offset=None, int? split_item=0, "
        "int? group_type=None, int? group_list_type=0, int? act_type=0, int[]? tuning_config=None, "
        "int? output_dtype=None, int? x_dtype=None, int? weight_dtype=None, int? scale_dtype=None, "
        "int? per_token_scale_dtype=None) -> Tensor[]",
    ),
    "npu_fused_linear_online_max_sum": (
        (V213,),
        "npu_fused_linear_online_max_sum(Tensor input, Tensor weight, Tensor target, int vocab_start_index, "
        "int vocab_end_index, bool return_logits=False) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    ),
    "npu_fused_linear_cross_entropy_loss_with_max_sum_backward": (
        (V213,),
        "npu_fused_linear_cross_entropy_loss_with_max_sum_backward(Tensor grad, Tensor input, Tensor weight, "
        "Tensor target_mask, Tensor masked_target, float label_smoothing=0.0, Tensor? logits_max=None, "
        "Tensor? sum_exp_logits=None, Tensor? softmax=None) -> (Tensor, Tensor)",
    ),
}
"""Operator to the versions that have it, of `VERSIONS`, and its schema there."""

LIBRARY = "torch_npu/lib/libtorch_npu.so"


def operators(version: str) -> dict[str, str]:
    """The schemas of a version by operator."""
    return {name: schema for name, (versions, schema) in SCHEMAS.items() if version in versions}

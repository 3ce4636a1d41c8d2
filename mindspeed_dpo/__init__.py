"""Offline and online DPO of large language models on Megatron-core, for Ascend NPUs first."""

__version__ = "0.1.0"

"""Layers with experts: the router, the exchange of tokens with the ranks that hold the experts, and the experts.

The collectives are left to `parallel`, the grouped product to `device.ops`, adapters of experts to `models.lora`.
"""

"""Layers with experts: the router, the exchange of tokens with the ranks that hold the experts, and the experts."""

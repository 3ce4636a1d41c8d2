"""Completes a configuration from what it names: the architecture, raw data as tokens, the steps of epochs, the layout.

The result is an ordinary composed configuration, which `config` validates like any other. Nothing here starts a run.
"""

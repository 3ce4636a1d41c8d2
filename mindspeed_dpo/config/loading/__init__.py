"""Resolves YAML files and overrides to a run: composition, parsing, precedence, derived values, provenance.

Rules between settings are left to `validation`.
"""

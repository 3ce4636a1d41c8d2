"""Resolves YAML files and overrides to a run: composition, parsing, precedence, derived values, provenance."""

"""From YAML files and overrides to a resolved run: composition, parsing, precedence, derived values, provenance.

Rules between settings are left to `validation`.
"""

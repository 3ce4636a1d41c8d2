"""From YAML files and overrides to a resolved run: composition, parsing, precedence, derived values, provenance."""

"""From YAML files and overrides to typed settings: composition, parsing, role defaults, provenance of each value."""

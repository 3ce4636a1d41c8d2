"""The typed settings of a run, one module per section; defaults, types and help texts, no rules between keys."""

"""The typed settings of a run, one module per topic: keys, defaults, units and help, but no rules between keys."""

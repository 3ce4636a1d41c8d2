"""Rules between settings. All violations of a run are reported together, before a device is allocated."""

"""Rules between settings; every violation of a run is reported at once, before a device is allocated."""

"""Rules between settings. All violations of a run are reported together, before a device is allocated.

The type and range of a single value are left to `settings`; checks that need data or devices to the packages above.
"""

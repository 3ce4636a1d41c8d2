"""Checks of an installation: `python -m mindspeed_dpo.doctor` says for each `ok` or what to do.

It must speak where half of what it looks at is missing or broken. So the process of the command itself imports nothing
but the standard library, and the configuration's own libraries only when one is named; everything else is tried in
processes of its own (`probes`), each with a timeout.
"""

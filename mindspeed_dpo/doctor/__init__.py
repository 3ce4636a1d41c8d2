"""Checks of an installation: `python -m mindspeed_dpo.doctor` reports for each check `ok` or what to do.

The checks must work where the installation is incomplete or broken. The main process therefore imports only the
standard library, and the libraries of the configuration if one is named. Everything else runs in a child process with
a timeout (`probes`). Loading devices and inspecting nodes is left to `device` and `controller`.
"""

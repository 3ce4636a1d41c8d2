"""Probes: modules that run in a child process, with arguments in JSON on the command line and a result in JSON.

A library that hangs, crashes or changes its process therefore does not affect the other checks.
"""

"""Conversion of other trainers' training scripts, command lines and YAML files to a configuration of this project.

Foreign files are read as text and never executed. Every key of a file is converted, or reported with a reason.
"""

"""What a run was asked to do: typed settings, where each came from, and every problem with them.

`load.load_run` turns a configuration's name into a `RunConfig`; all else follows from its frozen dataclasses. This room
knows YAML and its history. It knows nothing of torch, devices or processes: everything is checked before they start.
"""

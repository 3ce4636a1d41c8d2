"""vLLM as an engine that generates: a process with an interpreter of its own, and the messages to it.

`server`, `served_engine`, `loading` and `probe` run in that process; they import Python's own modules, torch and vLLM.
The others never import vLLM; they run in the worker, and those that say so in both.
"""

"""vLLM as an engine that generates: a process with an interpreter of its own, and the messages to it.

Only `server` and `probe` run in that process; they import Python's own modules, torch and vLLM. The others run in the
rollout worker and never import vLLM.
"""

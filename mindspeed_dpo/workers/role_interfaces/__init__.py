"""Interfaces of the roles: what the driver can call on every process of a worker group, and what the calls return.

The driver names a method by reference, such as `group.call(Actor.update, …)`, and each process calls the implementation
of its own role. These modules import no megatron, so that the driver starts without it; `workers/actor.py` and its
neighbours implement the interfaces.

A role runs on every rank of its pool and most methods are collectives: every rank must make the call. Results of a
data-parallel replica are returned by its output rank (`ParallelRank.is_output`); its other ranks return None.
"""

"""Processes on a Ray cluster: device pools, worker groups, and roles that run on them.

All uses of Ray are here. What a role computes is left to `workers`, when it computes to `trainers`.
"""

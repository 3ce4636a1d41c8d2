"""The roles of a run and the processes that play them: actor, reference, rollout and reward.

`role_interfaces` declares what a role can do; `actor`, `reference`, `rollout` and `reward` implement it with engines
and models; `role_calls` finds the implementation. Placing and starting the processes is left to `controller`, the order
of the calls to `trainers`.
"""

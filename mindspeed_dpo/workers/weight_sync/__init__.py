"""Transfer of the policy's weights from the actor to the rollout.

Buckets and slices are left to `weights.resharding`; when weights are sent, to the trainer.
"""

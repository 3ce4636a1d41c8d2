"""Transfer of the policy's weights from the actor to the rollout."""

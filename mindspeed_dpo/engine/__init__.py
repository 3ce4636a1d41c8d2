"""Train or score one model: schedule, gradients, optimizer, checkpoints. It never knows which loss it minimises."""

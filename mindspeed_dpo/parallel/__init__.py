"""Who stands where: the topology as pure integers, and the process groups made from it."""

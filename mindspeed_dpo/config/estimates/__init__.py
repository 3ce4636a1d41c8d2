"""Memory, workload and batch sizes derived from the settings alone, as the dry run shows them."""

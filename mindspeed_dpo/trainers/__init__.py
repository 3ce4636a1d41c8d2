"""The stories: what a run does, step by step, and how its objects are put together from the configuration."""

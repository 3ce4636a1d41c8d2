"""A test of the effect of every setting: each key is changed, and its effect is observed."""

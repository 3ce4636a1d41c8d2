"""The roles as plain objects: what a process does for the actor or the reference, without knowing who calls it."""

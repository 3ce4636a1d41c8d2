"""Every key of the schema, turned: what it changes, shown."""

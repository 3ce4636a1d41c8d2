"""From raw preference files to indexed token files: readers, handlers, the command line."""

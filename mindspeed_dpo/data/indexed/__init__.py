"""The token file format: memory-mapped columns of rows, written once and read by row number."""

"""Reading of files and messages that this process did not write: the one place where bytes become typed values.

One module per format. Each bounds depth, size and memory, checks the type of what arrives and raises only
`MalformedDataError`, whose message names the file. No reader imports or calls what a file names.
"""

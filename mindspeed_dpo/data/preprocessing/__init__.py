"""Preprocessing: converts raw preference and prompt files to token files on disk.

Covers the command line, readers, handlers and the pipeline. Templates and tokenizers are in `tokenization`, the file
format in `indexed`.
"""

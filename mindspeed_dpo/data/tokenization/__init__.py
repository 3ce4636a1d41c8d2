"""From conversations to token ids: templates, tokenizers and encoders. Reads and writes no files of data."""

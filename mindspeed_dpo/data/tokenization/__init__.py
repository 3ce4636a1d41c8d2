"""Tokenization: converts dialogues to token ids with templates, tokenizers and encoders; does no data file I/O."""

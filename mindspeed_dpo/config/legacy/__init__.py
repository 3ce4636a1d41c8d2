"""Names and keys of MindSpeed-LLM and MindSpeed-RL that are accepted beside our own."""

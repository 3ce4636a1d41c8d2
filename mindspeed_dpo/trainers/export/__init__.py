"""The result of a run for use elsewhere: a Hugging Face or PEFT folder with a model card."""

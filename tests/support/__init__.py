"""What several tests share: tiny models, tiny tokenizers, the recorded reference numbers."""

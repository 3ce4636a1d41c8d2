"""A MindSpeed for tests: only its adaptor, with the side effects that cause errors elsewhere."""

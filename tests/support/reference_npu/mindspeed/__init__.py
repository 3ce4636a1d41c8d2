"""A MindSpeed for tests: only its adaptor, with the habits that have bitten others."""

"""Stages 01 to 03: music in, ABC text, splits, tokens, baselines."""

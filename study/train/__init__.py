"""Stages 04, 05 and 05b: data, optimizer, the one training loop, runs and their plans."""

"""Stage 06: run records in, scaling laws with intervals and verdicts out."""

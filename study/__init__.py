"""Runs, numbers and pages: the stage contract, training, fits, sampling, results and the report."""

"""Stage 07: sampling, and what is measured of a trained model and its music."""

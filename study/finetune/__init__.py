"""Stage 08: a trained model goes on with other music."""

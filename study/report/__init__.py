"""Stage 07: RESULTS.json and the page."""

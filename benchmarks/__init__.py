"""What the project claims of itself, measured: `python -m benchmarks.bench_x` from the project's
folder."""

"""Does it still compute the same, and how fast: parity and latency."""

"""Latency: a monotonic clock, detected warm-up, percentiles as trtexec defines them."""

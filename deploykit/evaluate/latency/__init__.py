"""How long a call takes: a monotonic clock, warm-up that is detected, percentiles as trtexec defines them."""

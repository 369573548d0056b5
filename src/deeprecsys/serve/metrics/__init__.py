"""What the server counts and shows: counters, Prometheus metrics, Triton's statistics, a page, logs."""

"""What the server counts and shows: counters, Prometheus metrics, the live page, logs."""

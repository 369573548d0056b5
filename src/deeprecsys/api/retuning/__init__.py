"""Live retuning: when a served model deserves another policy."""

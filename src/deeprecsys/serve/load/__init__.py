"""A load generator for running servers."""

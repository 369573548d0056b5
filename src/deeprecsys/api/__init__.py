"""Composes nodes, searches and simulations into experiments, and returns values."""

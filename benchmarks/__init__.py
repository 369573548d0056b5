"""Measurements behind every figure of the documents, in folders by what is measured; `python -m benchmarks` runs them."""

"""DeepRecSys: recommendation models at the highest load a tail-latency target allows."""

__version__ = "0.1.0"

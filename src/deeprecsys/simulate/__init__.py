"""Virtual time: the dispatcher of the live node, driven by a latency profile instead of by workers."""

"""The live node: queries of several models, deadlines, new weights."""

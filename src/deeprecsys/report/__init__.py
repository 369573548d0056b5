"""What a run kept, and how people see it: run directories, text, plots, a page, a time line, words.

Raw records first (`rundir`), everything else derived from them. Plain values and documents come in, so that
neither the node nor the tuner is known here.
"""

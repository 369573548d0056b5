"""The plots of a report. Plain values in, a figure out; none raises on a trial in which nothing worked."""

"""Run log to summary to text and JSON; and the record of the machine that every result carries."""

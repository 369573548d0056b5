"""The wall-clock driver of the dispatcher: worker processes, shared memory, open-loop load."""

"""The machine: what it is made of, and the energy that it uses."""

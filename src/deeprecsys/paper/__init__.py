"""The paper's evaluation: one small file per figure or table, each a recipe over the other packages."""

"""One file an experiment; its docstring says command, duration and score."""

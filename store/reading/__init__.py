"""Studies and the worklist, what readers say of them, and what they sign."""

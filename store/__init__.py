"""What outlives a process: tables, bytes, units of work, and their dispatch."""

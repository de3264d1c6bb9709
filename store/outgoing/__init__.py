"""What goes out: notices to people and systems, results to archives."""

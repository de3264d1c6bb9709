"""Tables and files to take away; what went back to the archive."""

"""Results as tables, ZIPs and prepared files."""

"""People and their keys: one's own page, and the administrators'."""

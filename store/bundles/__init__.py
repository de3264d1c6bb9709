"""Model versions: their files, what they say of themselves, and which one serves."""

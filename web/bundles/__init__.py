"""Model versions: what they say of themselves, which one serves."""

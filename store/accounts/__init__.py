"""Sites, people, passwords, keys and sessions."""

"""The command `fractureai`: what a person types. Nothing imports this package."""

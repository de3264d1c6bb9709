"""Mails to people about their accounts."""

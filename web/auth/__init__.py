"""Who asks: sign-in, browser sessions, API keys, CSRF, confirmation."""

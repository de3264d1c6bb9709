"""What every feature of the web process stands on: errors, documents in and out, cookies, pacing."""

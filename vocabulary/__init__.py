"""What every package calls things: states, reasons and their sentences, media types, body parts."""

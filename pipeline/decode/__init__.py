"""Decoding: the bytes of an uploaded file to a `Radiograph`, or to the reason why it is refused."""

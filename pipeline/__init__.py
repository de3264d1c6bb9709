"""The reading itself: pure functions over arrays and frozen dataclasses."""

"""Worklist, studies, images, readers' answers."""

"""The PDF report: findings of one study in, one printable PDF out."""

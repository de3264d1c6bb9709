"""Study findings and their reports, signed reports, images at full depth."""

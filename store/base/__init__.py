"""What every feature of the store stands on: session, tables, blobs, pages of rows, errors."""

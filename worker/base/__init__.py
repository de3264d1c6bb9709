"""What stages and features stand on: networks in memory, what was written, mail, addresses outside."""

"""Model cards and publishing on the Hub."""

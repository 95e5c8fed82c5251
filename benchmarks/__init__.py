"""Measures the gateway side by side with the least that could do the same. See README.md."""

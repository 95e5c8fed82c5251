"""Calling other systems: inside their limits, with their authentication, safely, and judged."""

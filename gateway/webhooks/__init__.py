"""Who sent this webhook, and which event is it: pure functions over bytes and headers."""

"""HTTP in: webhooks at the public door, operators at their own."""

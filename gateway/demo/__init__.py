"""The parts of ``gateway demo``: a stand-in vendor, senders of signed webhooks, and a report."""

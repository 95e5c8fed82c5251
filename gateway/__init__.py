"""The integration gateway: webhooks in, durable jobs, vendor calls out."""

__version__ = "0.1.0"

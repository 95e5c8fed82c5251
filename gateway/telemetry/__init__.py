"""What the gateway tells about itself: log lines (``logs``) and numbers (``metrics``)."""

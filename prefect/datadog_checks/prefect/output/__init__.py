"""What leaves the check: metrics and Datadog events."""

"""The output of the check: metrics and Datadog events."""

"""Datadog's side, as far as the assets need it: series, queries, monitors, dashboards and log pipelines."""

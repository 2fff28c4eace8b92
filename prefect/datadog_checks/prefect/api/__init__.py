"""Prefect's REST API: transport, paging and the objects in its responses."""

"""Prefect's REST API: transport, paging and the objects that it answers with."""

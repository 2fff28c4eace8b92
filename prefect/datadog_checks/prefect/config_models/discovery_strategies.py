"""Config discovery goes by ports, as the specification declares: no strategy of its own is needed."""

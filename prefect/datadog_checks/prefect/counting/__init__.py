"""Counts each transition once, however late or often its event comes."""

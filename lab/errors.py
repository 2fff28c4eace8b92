"""What goes wrong in the lab."""


class LabError(Exception):
    """Something the lab needs is not there; the message is one plain sentence for the person who runs it."""

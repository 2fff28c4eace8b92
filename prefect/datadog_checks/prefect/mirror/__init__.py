"""A mirror of the server's objects, so that they are not read again in each check run."""

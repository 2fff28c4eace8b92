"""What is known of the server's objects without reading them again."""

"""The options, as the rest of the code wants them."""

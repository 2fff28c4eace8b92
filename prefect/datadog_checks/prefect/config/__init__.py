"""The instance's options, in the form that the rest of the code uses."""

"""The candidates of config discovery are those that the specification declares: nothing is overridden."""

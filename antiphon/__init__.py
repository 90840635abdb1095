"""The command line. The only package that knows the other three."""

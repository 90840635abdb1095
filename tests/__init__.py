"""The tests; packages mirror those of the project."""

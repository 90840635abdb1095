"""One module for each command: its options and what it prints. What it does is in the rooms next door."""

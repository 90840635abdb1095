"""Tests of the nodes: their runtime and their engines."""

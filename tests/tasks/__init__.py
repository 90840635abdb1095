"""Tests of what a conversation is written in: tasks, nodes, hooks, functions and speech."""

"""Scripted engines: real engines whose behaviour is written in the options of a session."""

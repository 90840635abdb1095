"""The whole stack: supervisord, real processes, real engines, as a user starts it."""

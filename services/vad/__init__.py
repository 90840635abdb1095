"""The vad engines: one module each, named as its vendor names it."""

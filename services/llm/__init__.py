"""The llm engines: one module each, named as its vendor names it."""

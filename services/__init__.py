"""The nodes: one process runtime, and one module per engine. They meet the orchestrator on the wire only."""

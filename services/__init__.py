"""The nodes: one process runtime, and under each service one module per engine. Meets the orchestrator on the wire only."""

"""What goes over the wire and how it is moved. Knows nothing of tasks, engines or processes."""

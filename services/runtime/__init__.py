"""What every node process does whatever it serves: register, heartbeat, streams, credit, leases, drain, exit codes."""

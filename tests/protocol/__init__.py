"""The wire: messages, sockets, addresses, and the ingest client."""

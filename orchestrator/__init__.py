"""Sessions, tasks, turns, speech, the dispatcher and the ingest: everything that makes a conversation."""

"""The operators' page: how the jobs are, what ran and what waits, for a browser on this machine. It writes nothing."""

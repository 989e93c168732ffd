"""What every job stands on: the job model, one invocation's guards, and one adapter a backing service."""

"""Seeded schedules of faults over all six jobs, and invariants that are checked after each."""

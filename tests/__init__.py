"""The tests, all on real servers."""

"""Tests of the dev stack itself."""

"""The migrations of our own schema, `maintenance`. `python -m ops migrate` runs them; the functions never do."""

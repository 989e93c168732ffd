"""The operator's side: `python -m ops …`."""

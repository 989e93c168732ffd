"""What looks for known vulnerabilities, unsafe code and secrets: `make audit`. Stands beside the product, not in it."""

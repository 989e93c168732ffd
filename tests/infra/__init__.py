"""The Terraform: what it plans, held against the code that it deploys."""

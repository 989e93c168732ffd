"""The pages of the handbook that are made of the code, so that they cannot say anything else than it does."""

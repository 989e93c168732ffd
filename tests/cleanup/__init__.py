"""What the cleanups take, and what they leave."""

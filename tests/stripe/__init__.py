"""stripe_reconcile, on a real database and the Stripe stand-in."""

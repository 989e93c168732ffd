"""Usage that never reached Stripe is reported: every billable page once, in the right period, or visibly not."""

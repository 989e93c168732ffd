"""What leaves: old usage counters, drafts that were never started, by-products in the bucket, opted-out users' data."""

"""What several tests need: clocks that tests move, a database a test, jobs that do as they are told."""

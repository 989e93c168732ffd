"""The jobs, each in a package of its own, and their one declaration, jobs.json."""

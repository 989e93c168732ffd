"""The local cloud: real servers for tests, the demo and the benchmarks. Production never imports this package."""

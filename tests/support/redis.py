"""Redis in tests: only our own keys are touched, because REDIS_URL may name a server that others use."""

import redis


def lose_everything(client: "redis.Redis") -> None:
    """Take all our keys away, as a Redis does that restarts with no persistence."""
    for key in client.scan_iter("maintenance:*"):
        client.delete(key)

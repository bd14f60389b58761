"""Requests under load: step times, a continuous-batching engine, service-level answers."""

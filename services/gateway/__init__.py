"""The public face of a cluster: API keys, idempotency, audit, composed views, events by SSE, the console."""

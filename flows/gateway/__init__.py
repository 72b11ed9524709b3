"""The gateway: a photograph in, a restored photograph out, over HTTP, for clients that know nothing of tiles."""

"""The console: server-rendered pages, kept live by events; no build chain, nothing from elsewhere."""

"""An HTTP server for step scores: one engine thread, many callers, work shared by prefix, nothing lost in silence."""

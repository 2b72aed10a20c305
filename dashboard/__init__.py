"""The dashboard: the endpoint that Segment's SDKs send calls to, and the pages."""

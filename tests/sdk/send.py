"""Sends all six calls with Segment's SDK for Python: URL, TOKEN, `gzip` or `plain`."""

import sys

from segment import analytics

url, token, encoding = sys.argv[1:]
errors: list[Exception] = []
analytics.write_key = token
analytics.host = url
analytics.gzip = encoding == "gzip"
analytics.on_error = lambda error, _: errors.append(error)

analytics.identify("jane", {"name": "Jane Roe", "email": "jane@example.com"}, anonymous_id="v1")
analytics.track("jane", "Order Completed", {"total": 39.95})
analytics.page("jane", "Docs", "Pricing", {"path": "/pricing"})
analytics.screen("jane", "App", "Cart")
analytics.group("jane", "acme", {"name": "Acme Inc."})
analytics.alias("jane.old", "jane")
analytics.shutdown()
sys.exit(f"not sent: {errors}" if errors else 0)

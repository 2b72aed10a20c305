"""What somebody does with a new token: the destination's steps, and code that works as pasted.

Source: https://segment.com/docs/connections/destinations/catalog/windsor/ ("Getting Started").
"""

import json
import shlex
from typing import Final, NamedTuple

STEPS: Final = (
    "In the Segment app, on the catalog's Destinations page, click Add Destination.",
    "Search for Windsor, and select it.",
    "Choose the source whose calls Windsor is to get.",
    "In Windsor, open the Sources page.",
    "Select Segment, click Generate Token, and copy the token: it is shown once.",
    "Enter the token in the destination's settings in the Segment app, and switch it on.",
)


class Snippet(NamedTuple):
    """Code to paste, for one way of sending."""

    title: str
    language: str
    """As HTML names it: sh, python or javascript."""
    code: str


def snippets(url: str, token: str) -> list[Snippet]:
    """Make the snippets.

    Args:
        url: Of this dashboard, as senders reach it, without a slash at the end.
        token: The source's.
    """
    key, host = json.dumps(token), json.dumps(url)
    call = {"userId": "jane", "event": "Order Completed", "properties": {"total": 39.95}}
    return [
        Snippet(
            "curl",
            "sh",
            f"curl -u {shlex.quote(token)}: -H 'content-type: application/json'"
            f" -d {shlex.quote(json.dumps(call))} {shlex.quote(f'{url}/v1/track')}",
        ),
        Snippet(
            "Python (segment-analytics-python)",
            "python",
            "import segment.analytics as analytics\n\n"
            f"analytics.write_key = {key}\n"
            f"analytics.host = {host}\n"
            'analytics.identify("jane", {"name": "Jane Roe", "email": "jane@example.com"})\n'
            'analytics.track("jane", "Order Completed", {"total": 39.95})\n'
            "analytics.shutdown()",
        ),
        Snippet(
            "Node (@segment/analytics-node)",
            "javascript",
            'import { Analytics } from "@segment/analytics-node";\n\n'
            f"const analytics = new Analytics({{ writeKey: {key}, host: {host} }});\n"
            "analytics.identify({\n"
            '  userId: "jane", traits: { name: "Jane Roe", email: "jane@example.com" },\n'
            "});\n"
            "analytics.track({\n"
            '  userId: "jane", event: "Order Completed", properties: { total: 39.95 },\n'
            "});\n"
            "await analytics.closeAndFlush();",
        ),
        Snippet(
            "Browser (@segment/analytics-next)",
            "javascript",
            'import { AnalyticsBrowser } from "@segment/analytics-next";\n\n'
            f"const analytics = AnalyticsBrowser.load({{ writeKey: {key}, cdnURL: {host} }});\n"
            'analytics.identify("jane", { name: "Jane Roe", email: "jane@example.com" });\n'
            'analytics.track("Order Completed", { total: 39.95 });',
        ),
    ]

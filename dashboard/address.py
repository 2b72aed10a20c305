"""Where this dashboard is reached."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from consumer.settings import Settings


def local_url(settings: "Settings", port: int) -> str:
    """The address for a browser on this machine, without a slash at the end."""
    host = settings.dashboard_host
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def public_url(settings: "Settings", port: int) -> str:
    """The address for people and senders, as far as the settings tell; likewise."""
    if settings.dashboard_url is not None:
        return settings.dashboard_url.rstrip("/")
    return local_url(settings, port)

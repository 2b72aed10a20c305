"""Why we do not trust the certificate that a server shows."""

import ssl
from typing import Final, Literal, TypeAlias

Distrust: TypeAlias = Literal["not_yet_valid", "expired", "other_host", "unknown_authority"]

# OpenSSL's X509_V_ERR_*.
_REASONS: Final[dict[int, Distrust]] = {
    9: "not_yet_valid",
    10: "expired",
    62: "other_host",
    # An address in the place of a name.
    64: "other_host",
}


def distrust(error: ssl.SSLCertVerificationError) -> Distrust:
    """Name what is wrong with a certificate; each edge adds what to do."""
    return _REASONS.get(error.verify_code, "unknown_authority")

"""Certificates that a test makes for itself."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


class Certificate(NamedTuple):
    """A certificate and its key, as files in PEM."""

    certfile: Path
    keyfile: Path
    both: Path
    """Key and chain in one file, as Kafka wants its keystore."""


class Authority:
    """An authority that signs what a test asks for."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder / name
        self._folder.mkdir(parents=True)
        self._authority = trustme.CA(organization_name=name)
        self.cafile = self._folder / "authority.pem"
        self._authority.cert_pem.write_to_path(self.cafile)

    def issue(self, name: str, *hosts: str, expired: bool = False) -> Certificate:
        """Sign a certificate whose common name is `name`, for hosts (`127.0.0.1` if none)."""
        not_after = datetime.now(UTC) + timedelta(days=-1 if expired else 1)
        signed = self._authority.issue_cert(
            *(hosts or ("127.0.0.1",)),
            common_name=name,
            not_before=not_after - timedelta(days=30),
            not_after=not_after,
        )
        chain = b"".join(blob.bytes() for blob in signed.cert_chain_pems)
        # Java reads keys as PKCS#8 alone.
        key = load_pem_private_key(signed.private_key_pem.bytes(), None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        made = Certificate(*(self._folder / f"{name}.{kind}" for kind in ("crt", "key", "pem")))
        made.certfile.write_bytes(chain)
        made.keyfile.write_bytes(key)
        # Postgres refuses a key that others may read.
        made.keyfile.chmod(0o600)
        made.both.write_bytes(key + chain)
        return made

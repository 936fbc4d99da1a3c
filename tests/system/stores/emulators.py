"""Emulators of Azure's and of Google's object store, and Airflow Connections that lead to them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from scripts.processes import Session, wait_until
from scripts.servers import Server
from tests.patience import PATIENCE

BUCKET = "bucket"
#: The account and the key that Azurite knows, as Microsoft documents them.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Emulator(Server):
    """A program that speaks the protocol of a store, in memory, with an empty bucket."""

    scheme: str

    def start(self) -> None:
        """Start the program, and create the bucket."""
        self._session = Session(self.scheme, self.command(), log=self.home / "log", env=dict(os.environ))
        wait_until(self._is_ready, what=f"the store of {self.scheme}", timeout=PATIENCE, watching=[self._session])

    def crash(self) -> None:
        """Kill the program. All objects are lost."""
        self._session.kill()

    def url(self, key: str, *, conn_id: str = "store", bucket: str = BUCKET) -> str:
        """Return the URL of an object, as a DAG author writes it."""
        return f"{self.scheme}://{conn_id}@{bucket}/{key}"

    def command(self) -> list[str]:
        """Return the command that runs the program."""
        raise NotImplementedError

    def connection(self, *, is_wrong: bool = False) -> str:
        """Return a Connection as JSON, whose credentials may be wrong."""
        raise NotImplementedError

    def create_bucket(self) -> None:
        """Create the bucket, if the program does not."""

    def _is_ready(self) -> bool:
        try:
            self.create_bucket()
        except Exception:  # it does not listen yet
            return False
        return True


class Azurite(Emulator):
    """Azure's Blob Storage, by Microsoft, from npm."""

    scheme = "abfs"

    def command(self) -> list[str]:
        return ["azurite-blob", "--inMemoryPersistence", "--skipApiVersionCheck", f"--blobPort={self.port}"]

    def connection(self, *, is_wrong: bool = False) -> str:
        return json.dumps({"conn_type": "wasb", "extra": {"connection_string": self._connection_string(is_wrong)}})

    def create_bucket(self) -> None:
        from azure.storage.blob import BlobServiceClient

        options: dict[str, Any] = {"retry_total": 0, "connection_timeout": 5}
        BlobServiceClient.from_connection_string(self._connection_string(), **options).create_container(BUCKET)

    def _connection_string(self, is_wrong: bool = False) -> str:
        endpoint = f"http://127.0.0.1:{self.port}/{ACCOUNT}"
        key = f"AAAA{KEY[4:]}" if is_wrong else KEY
        return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={key};BlobEndpoint={endpoint};"


class GcsEmulator(Emulator):
    """Google's Cloud Storage, by gcp-storage-emulator. It accepts all credentials."""

    scheme = "gs"

    def command(self) -> list[str]:
        program = Path(sys.executable).with_name("gcp-storage-emulator")
        return [str(program), "start", "--host=127.0.0.1", f"--port={self.port}", "-M", f"--default-bucket={BUCKET}"]

    def connection(self, *, is_wrong: bool = False) -> str:
        """Return a Connection without credentials, or with a key that the server for tokens does not know."""
        extra: dict[str, Any] = {"gcs.endpoint": f"http://127.0.0.1:{self.port}", "project": "test"}
        if is_wrong:
            key = {
                "type": "service_account",
                "client_email": "nobody@test.iam.gserviceaccount.com",
                "private_key": _private_key(),
                "token_uri": f"http://127.0.0.1:{self.port}/no/such/page",
            }
            extra["keyfile_dict"] = json.dumps(key)
        else:
            extra["is_anonymous"] = True
        return json.dumps({"conn_type": "google_cloud_platform", "extra": extra})

    def create_bucket(self) -> None:
        """Wait until the program, which creates the bucket, responds."""
        import requests

        requests.get(f"http://127.0.0.1:{self.port}/storage/v1/b/{BUCKET}", timeout=PATIENCE).raise_for_status()


def _private_key() -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption()).decode()

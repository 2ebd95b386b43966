"""A folder in a store: what its messages show, what is final, and the stores whose emulators are installed."""

import base64
import contextlib
import hashlib
import hmac
import importlib.util
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pa_fs
import pytest
from click.testing import CliRunner

from convnext_imagenet.base import stores
from convnext_imagenet.base.errors import ArtefactError, FailedError
from convnext_imagenet.base.stores import StoreFolder, open_folder
from convnext_imagenet.records import open_records
from convnext_imagenet.records.cached import local_records
from convnext_imagenet.records.cli import main
from convnext_imagenet.records.places import StorePlace
from convnext_imagenet.records.pull import pull, verify_stored
from convnext_imagenet.records.push import push
from convnext_imagenet.records.reader import Records

_URL = "http://127.0.0.1/account/bucket/x?sv=2021&sig=hunter2%3D"
_AZURITE_ACCOUNT = "devstoreaccount1"  # of every Azurite, with a key that its documentation prints
_AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_GCS = (  # by itself it answers one request at a time, and Arrow begins the next before it has read the last
    "import http.server, sys, time; import gcp_storage_emulator.server as emulator; "
    "emulator.server.HTTPServer = http.server.ThreadingHTTPServer; "
    "emulator.create_server('127.0.0.1', int(sys.argv[1]), in_memory=True, default_bucket='bucket').start(); "
    "time.sleep(600)"
)


class FailingStore(pa_fs.FileSystem):
    """Answers every request with one error, and counts them."""

    def __init__(self, error: Exception) -> None:
        self.error, self.requests = error, 0

    def _fail(self, *_: object) -> None:
        self.requests += 1
        raise self.error

    open_input_stream = open_output_stream = _fail


@pytest.mark.parametrize(
    ("error", "is_repeated", "kind"),
    [
        (
            OSError(f"Upload failed for '{_URL}'. Azure Error: [AuthorizationPermissionMismatch] 403 no"),
            False,
            ArtefactError,
        ),
        (OSError(f"Upload failed for '{_URL}'. Azure Error: [ContainerNotFound] 404 no"), False, ArtefactError),
        (OSError(f"{_URL}: google::cloud::Status(UNAUTHENTICATED: no"), False, ArtefactError),
        (FileNotFoundError(2, f"{_URL}: NOT_FOUND"), False, ArtefactError),
        (OSError(f"Upload failed for '{_URL}'. Azure Error: [ServerBusy] 503 later"), True, FailedError),
        (pa.ArrowException(f"{_URL}: Unknown error"), True, FailedError),
    ],
)
def test_only_what_may_pass_is_repeated_and_no_message_shows_a_signature(monkeypatch, error, is_repeated, kind):
    monkeypatch.setattr(stores, "_RETRY_S", 0.2)
    monkeypatch.setattr(stores, "_FIRST_PAUSE_S", 0.01)
    store = FailingStore(error)
    with pytest.raises(kind) as caught:
        StoreFolder(store, "bucket/x", "abfs://bucket/x").write("plan.json", b"{}")
    assert (store.requests > 1) == is_repeated
    assert "account/bucket/x" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("s3://user:hunter2@b/x?region=a", "s3://b/x"),
        ("--records=abfs://account@c/x?sig=hunter2", "--records=abfs://account@c/x"),
        ("s3:/user:hunter2@b/x", "s3://b/x"),
        ("train.epochs=2", "train.epochs=2"),
        ("records-out", "records-out"),
    ],
)
def test_a_command_line_in_a_log_shows_no_credentials(word, shown):
    assert stores.without_credentials(word) == shown


@contextlib.contextmanager
def _emulator(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def _google() -> Iterator[str]:
    if importlib.util.find_spec("gcp_storage_emulator") is None:
        pytest.skip("gcp-storage-emulator is not installed")
    port = _free_port()
    with _emulator([sys.executable, "-c", _GCS, str(port)], port):
        yield f"gs://anonymous@bucket/set?scheme=http&endpoint_override=127.0.0.1%3A{port}"


@contextlib.contextmanager
def _azure() -> Iterator[str]:
    if (program := shutil.which("azurite-blob")) is None:
        pytest.skip("azurite is not installed")
    port = _free_port()
    options = ["--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--blobPort", str(port)]
    with _emulator([program, *options], port):
        host = f"127.0.0.1:{port}"
        pa_fs.AzureFileSystem(
            _AZURITE_ACCOUNT,
            account_key=_AZURITE_KEY,
            blob_storage_authority=host,
            dfs_storage_authority=host,
            blob_storage_scheme="http",
            dfs_storage_scheme="http",
        ).create_dir("bucket")
        yield f"abfs://{_AZURITE_ACCOUNT}@{host}/bucket/set?enable_tls=false&{_account_signature()}"


def _account_signature() -> str:
    """A shared access signature, the form in which a URI may hold Azure's credentials."""
    fields = {"sp": "rwdlac", "ss": "b", "srt": "sco", "st": "", "se": "2099-01-01", "sip": "", "spr": ""}
    fields["sv"] = "2021-06-08"
    text = "\n".join([_AZURITE_ACCOUNT, *fields.values(), "", ""])
    digest = hmac.new(base64.b64decode(_AZURITE_KEY), text.encode(), hashlib.sha256).digest()
    fields["sig"] = base64.b64encode(digest).decode()
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in fields.items() if value)


@contextlib.contextmanager
def _local() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield f"file://{folder}/set"


@pytest.mark.parametrize("emulated", [_local, _google, _azure])
def test_records_travel_through_other_stores(
    records_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, emulated
):
    with emulated() as uri:
        assert push(records_root, uri).shards == 2
        assert push(records_root, uri).shards == 0
        assert pull(uri, tmp_path / "out").shards == 2
        assert list(open_records(uri)) == list(open_records(records_root)) == list(open_records(tmp_path / "out"))
        assert verify_stored(StorePlace(uri)) > 0
        for command in (["show"], ["peek", "--row", "3"], ["verify"]):
            shown = CliRunner().invoke(main, [command[0], uri, *command[1:]])
            assert shown.exit_code == 0, shown.output
        monkeypatch.setenv("CONVNEXT_RECORDS_CACHE", str(tmp_path / "copies"))
        copy = local_records(Path(uri), ("train",), lambda line: None)  # the door of training and evaluation
        fields = ("key", "image", "label")
        read = [list(Records.open(root).split("train").read(range(7), fields)) for root in (copy, records_root)]
        assert read[0] == read[1]
        folder = open_folder(uri)
        folder.remove("_SUCCESS")
        folder.remove("_SUCCESS")
        with pytest.raises(ArtefactError, match="half of them"):
            pull(uri, tmp_path / "new")

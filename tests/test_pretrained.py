"""Weights by name, URL and repository, from servers on this machine."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import googlenet_fast
from googlenet_fast import evaluate, export, predict, pretrained, train
from googlenet_fast.cli import Parser, add_weights
from googlenet_fast.data import sample_dataset
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model import GoogLeNet
from googlenet_fast.model.weights import load_model, load_weights, save_weights
from googlenet_fast.pretrained import is_remote, local_file, published
from tests.http_server import Server, redirect

ROOT = Path(__file__).parents[1]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    names = [f"class {i}" for i in range(10)]
    save_weights(GoogLeNet("paper", 10, aux=False), path, class_names=names, image_size=64)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLENET_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, server: Server, weights: bytes) -> None:
    """Serve the weights that are called caffe."""
    url = server.add("/w.safetensors", weights)
    digest = f"sha256:{hashlib.sha256(weights).hexdigest()[:8]}"
    entry = {"url": url, "digest": digest, "licence": "none"}
    monkeypatch.setattr(pretrained, "published", lambda: {"caffe": entry})


def hub(server: Server, weights: bytes, files: list[str], revision: str = "main") -> None:
    """Serve a repository as Hugging Face does, the files from another address."""
    sha256 = hashlib.sha256(weights).hexdigest()
    siblings = [
        {"rfilename": f, "lfs": {"sha256": sha256} if f.endswith("tensors") else None}
        for f in files
    ]
    listing = json.dumps({"id": "me/net", "siblings": siblings}).encode()
    server.add(f"/api/models/me/net/revision/{revision}?blobs=True", listing)
    cdn = server.root.replace("127.0.0.1", "localhost")
    server.add("/cdn", weights)
    for file in files:
        server.add(f"/me/net/resolve/{revision}/{file}", redirect(f"{cdn}/cdn"))


def test_the_table_is_complete() -> None:
    for name, entry in published().items():
        assert set(entry) == {"url", "digest", "licence", "about"}, name
        assert re.fullmatch(r"sha256:[0-9a-f]{8,64}|md5:[0-9a-f]{32}", entry["digest"])
        whole = re.fullmatch(r"sha256:[0-9a-f]{64}", entry["digest"])
        assert entry["url"].startswith("https://" if whole is None else "http")


def test_the_names_are_in_the_help_and_the_notice() -> None:
    parser = Parser(prog="test")
    add_weights(parser)
    for name, entry in published().items():
        assert name in parser.format_help()
        row = rf"\| `{name}` \| .* \| {re.escape(entry['url'])} \| .* \| {entry['licence']} \|"
        assert re.search(row, (ROOT / "docs" / "prediction.md").read_text())
        assert entry["licence"] in (ROOT / "NOTICE").read_text()


@pytest.mark.parametrize("weights", ["./caffe", "caffe.pth", "a/caffe", Path("caffe"), "hf:/a"])
def test_paths(weights: str | Path) -> None:
    assert not is_remote(weights)
    assert local_file(weights) == Path(weights)


@pytest.mark.usefixtures("table")
def test_a_name_is_downloaded_once(server: Server, weights: bytes) -> None:
    model, _ = load_model("caffe")
    other = GoogLeNet("paper", 10, aux=False)
    load_weights(other, "caffe")
    classify = googlenet_fast.load("caffe", "cpu")
    assert torch.equal(model.fc.weight, other.fc.weight)
    assert list(classify.categories)[:2] == ["class 0", "class 1"]
    assert len(server.requests) == 1
    assert local_file("caffe").read_bytes() == weights


@pytest.mark.usefixtures("table")
def test_a_changed_file_is_refused(server: Server) -> None:
    server.add("/w.safetensors", b"changed")
    with pytest.raises(
        GoogLeNetError, match=r"weights caffe: http.*w.safetensors: .* another file"
    ):
        googlenet_fast.load("caffe", "cpu")


def test_a_url_and_its_digest(server: Server, weights: bytes) -> None:
    url = server.add("/a/w.safetensors?download=1", weights)
    assert local_file(url).read_bytes() == weights
    assert local_file(url).name == "w.safetensors"
    good = f"{url}#sha256={hashlib.sha256(weights).hexdigest()}"
    assert local_file(good).read_bytes() == weights
    assert local_file(good) != local_file(url)
    with pytest.raises(GoogLeNetError, match="is another file"):
        local_file(f"{url}#sha256={'0' * 64}")
    with pytest.raises(GoogLeNetError, match="write #sha256= and 64"):
        local_file(f"{url}#sha256=12")


@pytest.mark.parametrize(
    ("name", "files", "revision"),
    [
        ("hf://me/net", ["README.md", "model.safetensors", "pytorch_model.bin"], "main"),
        ("hf://me/net@v1.0", ["best.pt"], "v1.0"),
        ("hf://me/net/sub/b.safetensors", ["a.safetensors", "sub/b.safetensors"], "main"),
    ],
)
def test_a_repository(
    name: str,
    files: list[str],
    revision: str,
    server: Server,
    weights: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{server.root}/")
    monkeypatch.setenv("HF_TOKEN", "secret")
    hub(server, weights, files, revision)
    assert load_model(name)[1].num_classes == 10
    assert local_file(name).suffix in (".safetensors", ".pt")
    assert [token for _, token in server.requests] == ["Bearer secret", "Bearer secret", None]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf://me/net", r"holds a.safetensors, b.safetensors; name one"),
        ("hf://me/net/c.safetensors", r"no such file; did you mean"),
        ("hf://me/net/../../x", r"no such file"),
        ("hf://me/other", r"HTTP 404"),
        ("hf://me", r"write hf://owner/name"),
        ("hf://me/strange", r"strange.*: is not the list of a repository's files"),
    ],
)
def test_repositories_without_such_weights(
    name: str, message: str, server: Server, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.root)
    hub(server, weights, ["a.safetensors", "b.safetensors"])
    server.add("/api/models/me/strange/revision/main?blobs=True", b"<html>")
    with pytest.raises(GoogLeNetError, match=message) as caught:
        local_file(name)
    assert str(caught.value).startswith(f"weights {name}: ")


def test_a_repositorys_digest_is_checked(
    server: Server, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.root)
    hub(server, weights, ["a.safetensors"])
    server.add("/cdn", weights[:-1] + b"?")
    with pytest.raises(GoogLeNetError, match="is another file"):
        local_file("hf://me/net")


def test_without_a_network_the_message_says_what_to_do(
    run_main: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "https://googlenet.invalid/w.pth"
    entry = {"url": url, "digest": "sha256:1378be20", "licence": "none"}
    monkeypatch.setattr(pretrained, "published", lambda: {"torchvision": entry})
    status, _, stderr = run_main(predict.main, "torchvision", "a.jpg", "--device", "cpu")
    assert status == 2
    assert stderr.splitlines()[-1].startswith(f"error: weights torchvision: {url}: cannot be down")
    assert stderr.splitlines()[-1].endswith("download it elsewhere and name the file")


def test_what_is_no_file_of_weights_is_not_kept(server: Server, weights: bytes) -> None:
    url = server.add("/w.safetensors", b"<html>come back later</html>")
    with pytest.raises(GoogLeNetError, match=f"; from {url}, and not kept"):
        load_model(url)
    server.add("/w.safetensors", weights)
    assert load_model(url)[1].num_classes == 10


def test_a_name_that_leaves_the_repository(
    server: Server, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.root)
    hub(server, weights, ["../../a.safetensors"])
    with pytest.raises(GoogLeNetError, match="no such file"):
        local_file("hf://me/net")


def test_a_mistyped_name(run_main: Run) -> None:
    status, _, stderr = run_main(predict.main, "cafe", "a.jpg", "--device", "cpu")
    assert status == 2
    assert stderr == ("error: weights cafe: No such file or directory; did you mean caffe?\n")


@pytest.mark.slow
@pytest.mark.usefixtures("table")
def test_every_command_takes_a_name(
    run_main: Run, tmp_path: Path, few_digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "caffe").mkdir()  # the name means the weights all the same
    digits, lists = sample_dataset(), few_digits
    run = ["--root", digits, "--device", "cpu", "--json"]
    assert run_main(export.main, "caffe", "out.pth")[0] == 0
    status, out, err = run_main(evaluate.main, "caffe", "--list", lists / "val_list.txt", *run)
    assert (status, json.loads(out)["weights"]) == (0, "caffe"), err
    photo = digits / (lists / "val_list.txt").read_text().split()[0]
    assert run_main(predict.main, "caffe", photo, "--device", "cpu")[0] == 0
    status, _, err = run_main(
        train.main, "--model.weights", "caffe", "--model.preset", "paper", "--model.aux", "false",
        "--data.train_list", lists / "train_list.txt", "--data.val_list", lists / "val_list.txt",
        "--data.root", digits, "--data.image_size", 64, "--epochs", 1,
        "--batch-size", 8, "--output", "run",
    )  # fmt: skip
    assert status == 0, err
    assert "weights: caffe" in Path("run/config.yaml").read_text()

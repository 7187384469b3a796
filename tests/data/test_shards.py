"""Tar shards: what is found in them, and that they are read as single files are."""

import io
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from googlenet_fast.data import ImageDataset, LoaderOptions, build_loader, open_dataset, open_splits
from googlenet_fast.data.shard_index import index_shard
from googlenet_fast.data.shard_writer import Shard, write_shard
from googlenet_fast.data.shards import find_shards
from googlenet_fast.engine.class_matching import match_classes
from googlenet_fast.errors import GoogLeNetError
from googlenet_fast.model.presets import IMAGENET_RGB

KINDS = ("dali", "pillow")


def tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def sample(number: int, label: int, suffix: str = "jpg") -> dict[str, bytes]:
    return {f"{number:03}.{suffix}": b"image %d" % number, f"{number:03}.cls": b"%d" % label}


def shards(root: Path, *names: str) -> None:
    """A shard of each name with four images of two classes."""
    for name in names:
        tar(root / name, sample(0, 0) | sample(1, 1) | sample(2, 0) | sample(3, 1))


@pytest.fixture(scope="module")
def sharded(photos: ImageDataset, tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """The photos, in their order, in three shards."""
    root = tmp_path_factory.mktemp("shards in a folder")
    for number, start in enumerate((0, 9, 18)):
        images = [photos.location(i) for i in range(start, min(start + 9, len(photos)))]
        labels = photos.labels[start : start + 9]
        write_shard(Shard(f"p-{number}.tar", start, images, labels), root, None)
    return ImageDataset.from_list(root / "p-{0..2}.tar")


class TestReading:
    def test_the_same_images_and_labels(self, photos: ImageDataset, sharded: ImageDataset) -> None:
        assert sharded.labels.tolist() == photos.labels.tolist()
        for i in range(len(photos)):
            assert sharded.location(i).read() == Path(photos.path(i)).read_bytes()

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("train", [True, False])
    @pytest.mark.parametrize("part", [(0, 1, 0), (1, 2, 6), (2, 3, 0)])
    def test_the_same_batches_as_from_files(
        self,
        kind: Any,
        train: bool,
        part: tuple[int, int, int],
        photos: ImageDataset,
        sharded: ImageDataset,
    ) -> None:
        """In any part of any epoch, to the bit: order and crops do not depend on the storage."""
        pytest.importorskip("nvidia.dali" if kind == "dali" else "PIL")
        rank, world_size, start = part
        batches: list[list[tuple[torch.Tensor, torch.Tensor]]] = []
        for dataset in (photos, sharded):
            loader = build_loader(
                dataset,
                LoaderOptions(
                    train=train,
                    kind=kind,
                    batch_size=3,
                    image_size=48,
                    seed=3,
                    normalization=IMAGENET_RGB,
                    num_workers=1,
                    rank=rank,
                    world_size=world_size,
                ),
            )
            batches.append([])
            for epoch in (4, 5):
                loader.set_epoch(epoch, start)
                batches[-1] += list(loader)
        assert len(batches[0]) > 2
        for (images, labels), (other_images, other_labels) in zip(*batches, strict=True):
            assert torch.equal(images, other_images)
            assert torch.equal(labels, other_labels)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("content", [b"", b"no image", None])
    def test_an_image_that_cannot_be_decoded_is_named(
        self, kind: Any, content: bytes | None, photos: ImageDataset, tmp_path: Path
    ) -> None:
        pytest.importorskip("nvidia.dali" if kind == "dali" else "PIL")
        whole = Path(photos.path(0)).read_bytes()
        content = whole[: len(whole) // 2] if content is None else content
        tar(tmp_path / "a.tar", {"0.jpg": whole, "0.cls": b"0", "1.jpg": content, "1.cls": b"0"})
        loader = build_loader(
            ImageDataset.from_list(tmp_path / "a.tar"),
            LoaderOptions(
                train=False,
                kind=kind,
                batch_size=2,
                image_size=48,
                normalization=IMAGENET_RGB,
                num_workers=1,
            ),
        )
        with pytest.raises(GoogLeNetError) as error:
            list(loader)
        assert str(error.value).startswith(f"{tmp_path}/a.tar/1.jpg: cannot be read as an image")

    def test_a_loader_may_go_while_its_batches_are_made(self, sharded: ImageDataset) -> None:
        pytest.importorskip("nvidia.dali")
        for _ in range(5):
            dataset = ImageDataset.from_list(sharded.source)
            loader = build_loader(
                dataset,
                LoaderOptions(
                    train=True,
                    kind="dali",
                    batch_size=8,
                    image_size=224,
                    normalization=IMAGENET_RGB,
                    prefetch=3,
                ),
            )
            images, _ = next(iter(loader))
            del dataset, loader
            assert images.isfinite().all()

    def test_a_replaced_shard_is_read_again(self, tmp_path: Path) -> None:
        for content in (b"first", b"other"):
            tar(tmp_path / "a.tar", {"0.jpg": content, "0.cls": b"0"})
            os.utime(tmp_path / "a.tar", ns=(0, content[0]))
            members = ImageDataset.from_list(tmp_path / "a.tar").tar_members
            assert members is not None
            assert bytes(members.view(0)) == content

    def test_dalis_own_reader_finds_the_same(
        self, photos: ImageDataset, sharded: ImageDataset
    ) -> None:
        pytest.importorskip("nvidia.dali")
        from nvidia.dali import fn, pipeline_def

        assert sharded.tar_members is not None
        paths = [str(shard) for shard in sharded.tar_members.shards]

        @pipeline_def
        def reader() -> Any:
            read: Any = fn.readers.webdataset  # its stub does not know the outputs' number
            images, labels = read(paths=paths, ext=["jpg", "cls"])
            return images, labels

        pipeline = reader(batch_size=len(photos), num_threads=1, device_id=None)
        images, labels = pipeline.run()
        assert [int(bytes(np.array(label))) for label in labels] == photos.labels.tolist()
        for i, image in enumerate(images):
            assert np.array_equal(np.array(image), sharded.tar_members.view(i))


class TestLayouts:
    @pytest.mark.parametrize(
        "names",
        [
            ("x-train-00.tar", "x-train-01.tar", "x-val-00.tar", "x-test-00.tar"),
            ("train/0.tar", "train/1.tar", "val/0.tar"),
            ("interval-0.tar", "interval-1.tar", "x_val.tar"),
        ],
    )
    def test_folder(self, names: tuple[str, ...], tmp_path: Path) -> None:
        shards(tmp_path, *names)
        train, val = open_splits(tmp_path)
        assert (len(train), len(val)) == (8, 4)
        assert train.class_names == val.class_names == ("0", "1")
        assert len(open_dataset(tmp_path)) == 4
        assert val.files[0].rpartition("/")[0] in (names[2], "0.tar")

    def test_a_tenth_is_held_out_where_there_is_no_other(self, tmp_path: Path) -> None:
        shards(tmp_path, *(f"s-{i:03}.tar" for i in range(10)))
        for source in (tmp_path, tmp_path / "s-{000..009}.tar", tmp_path / "s-*.tar"):
            train, val = open_splits(source)
            assert (len(train), len(val)) == (36, 4)
            assert set(train.files).isdisjoint(val.files)
        assert len(open_dataset(tmp_path / "s-{000..009}.tar")) == 40

    def test_what_class_folders_were_unpacked_from_is_passed_over(self, tmp_path: Path) -> None:
        for split in ("train", "val"):
            for name in ("n01440764", "n01443537"):
                (tmp_path / split / name).mkdir(parents=True)
                (tmp_path / split / name / "0.jpg").touch()
                (tmp_path / split / f"{name}.tar").write_bytes(b"not to be read")
        (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(b"not to be read")
        assert [len(split) for split in open_splits(tmp_path)] == [2, 2]
        assert len(open_dataset(tmp_path)) == 2
        assert len(open_splits(tmp_path / "train").train) == 2
        (tmp_path / "train_list.txt").write_text("train/n01440764/0.jpg 0\nval/n01440764/0.jpg 1\n")
        assert open_splits(tmp_path).train.source == tmp_path / "train_list.txt"

    def test_every_image_of_a_folder_is_evaluated_on(self, tmp_path: Path) -> None:
        shards(tmp_path / "val", "0.tar", "1.tar")
        shards(tmp_path / "b", "b-train-0.tar", "b-train-1.tar", "b-train-2.tar")
        assert len(open_dataset(tmp_path / "val")) == 8
        assert len(open_dataset(tmp_path / "b")) == 2  # held out: the others are to train on
        shards(tmp_path / "c", "c-val-0.tar")
        with pytest.raises(GoogLeNetError, match="c: holds validation shards only"):
            open_splits(tmp_path / "c")

    def test_a_pattern_for_each_split(self, tmp_path: Path) -> None:
        shards(tmp_path / "a", "0.tar", "1.tar")
        shards(tmp_path / "b", "0.tar")
        train, val = open_splits(None, tmp_path / "a" / "{0..1}.tar", tmp_path / "b" / "0.tar")
        assert (len(train), len(val)) == (8, 4)

    def test_names_beside_the_shards(self, tmp_path: Path) -> None:
        shards(tmp_path, "train-0.tar", "val-0.tar")
        names = tmp_path / "class_names.txt"
        names.write_text("grey heron\nmagpie\nwren\n")
        assert open_splits(tmp_path).val.class_names == ("grey heron", "magpie", "wren")
        network = ("wren", "magpie", "grey heron")
        matched, note = match_classes(open_dataset(tmp_path), 3, network)
        assert matched.labels.tolist() == [2, 1, 2, 1]
        assert note is not None
        names.write_text("magpie\n")
        with pytest.raises(GoogLeNetError, match=r"class_names\.txt: has 1 names, but .* label 1;"):
            open_splits(tmp_path)

    def test_labels_that_name_nothing_are_taken_as_they_are(self, tmp_path: Path) -> None:
        shards(tmp_path, "0.tar")
        dataset = open_dataset(tmp_path / "0.tar")
        assert match_classes(dataset, 10, None) == (dataset, None)

    def test_labels_can_be_renumbered(self, tmp_path: Path) -> None:
        tar(tmp_path / "train.tar", sample(0, 500) | sample(1, 7) | sample(2, 500))
        tar(tmp_path / "val.tar", sample(0, 500))
        train, val = open_splits(tmp_path, relabel=True)
        assert (train.labels.tolist(), val.labels.tolist()) == ([1, 0, 1], [1])
        assert train.class_names == ("7", "500")


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("s-{000..002}.tar", ["s-000.tar", "s-001.tar", "s-002.tar"]),
            ("s-{8..11}.tar", ["s-8.tar", "s-9.tar", "s-10.tar", "s-11.tar"]),
            ("{b,a}-{0..1}.tar", ["b-0.tar", "b-1.tar", "a-0.tar", "a-1.tar"]),
            ("[ab]-0.tar", ["a-0.tar", "b-0.tar"]),
            ("a-0.tar", ["a-0.tar"]),
            ("odd{name}.tar", ["odd{name}.tar"]),
            ("s-{0..5..2}.tar", ["s-0.tar", "s-2.tar", "s-4.tar"]),
            ("s-{00..05..5}.tar", ["s-00.tar", "s-05.tar"]),
        ],
    )
    def test_expansion(self, pattern: str, expected: list[str], tmp_path: Path) -> None:
        for name in expected:
            (tmp_path / name).touch()
        assert [path.name for path in find_shards(tmp_path / pattern)] == expected

    def test_patterns_joined(self, tmp_path: Path) -> None:
        shards(tmp_path, "b-0.tar", "b-1.tar", "a-0.tar")
        joined = f"{tmp_path}/b-{{0..1}}.tar::{tmp_path}/a-*.tar"
        assert [path.name for path in find_shards(joined)] == ["b-0.tar", "b-1.tar", "a-0.tar"]
        assert len(open_dataset(joined)) == 12

    @pytest.mark.parametrize(
        "source", ["pipe:cat s.tar", "https://x.org/{0..1}.tar", "s3://b/a.tar"]
    )
    def test_shards_that_are_no_files(self, source: str) -> None:
        with pytest.raises(GoogLeNetError, match="only files are read"):
            find_shards(source)

    @pytest.mark.parametrize(
        ("pattern", "reason"),
        [
            ("s-{000..003}.tar", "s-003.tar: no such shard (of "),
            ("x*.tar", "x*.tar: no shard has such a name"),
            ("s-{3..1}.tar", "{3..1} is not a range of shard numbers"),
            ("s-{0..999999999}.tar", "{0..999999999} is not a range"),
            ("s-{0..9999}{0..9999}.tar", "names more than 100000 shards"),
            ("s-{1..2..0}.tar", "{1..2..0} is not a range"),
            ("s-{a}.tar", "{a} is neither a range {0..9} nor a choice {a,b}"),
        ],
    )
    def test_mistakes(self, pattern: str, reason: str, tmp_path: Path) -> None:
        for i in range(3):
            (tmp_path / f"s-{i:03}.tar").touch()
        with pytest.raises(GoogLeNetError) as error:
            find_shards(tmp_path / pattern)
        assert reason in str(error.value)


class TestIndex:
    def test_what_belongs_to_a_sample(self, tmp_path: Path) -> None:
        path = tar(
            tmp_path / "a.tar",
            {
                "./.hidden": b"",
                "notes.txt": b"of no sample",
                "deep/a.cls": b" 12\n",
                "deep/a.json": b"{}",
                "deep/a.JPEG": b"12 bytes img",
                "a.png": b"another",
                "a.seg.png": b"other",
                "a.cls": b"3",
            },
        )
        index = index_shard(path)
        assert index.names == ["deep/a.JPEG", "a.png"]
        assert index.labels == [12, 3]
        content = path.read_bytes()
        starts = zip(index.offsets, index.sizes, strict=True)
        assert [content[o : o + s] for o, s in starts] == [b"12 bytes img", b"another"]

    @pytest.mark.parametrize(
        ("members", "reason"),
        [
            ({"a.jpg": b""}, "sample 'a' has no label (.cls, .json or .txt)"),
            ({"x/a.cls": b"1"}, "sample 'x/a' has no image"),
            ({"a.jpg": b"", "a.png": b"", "a.cls": b"1"}, "'a' has a second image, a.png"),
            ({"a.jpg": b"", "a.cls": b"-1"}, "a.cls: b'-1' is not a label"),
            ({"a.jpg": b"", "a.cls": b"cat"}, "a.cls: b'cat' is not a label"),
            ({"a.jpg": b"", "a.cls": b"9" * 30}, "is not a label"),
            ({"a.txt": b"1"}, "holds no sample of an image and a label"),
            ({"a.jpg": b"", "a.txt": b"a cat"}, "a.txt: holds no label; a sample needs a .cls"),
            ({"a.jpg": b"", "a.json": b'{"label": true}'}, "a.json: holds no label"),
            ({"a.jpg": b"", "a.json": b'{"label": -1}'}, "a.json: holds no label"),
            ({"a.jpg": b"", "a.json": b"[" * 9999}, "a.json: holds no label"),
            ({"a.jpg": b"", "a.json": b"[1]"}, "a.json: holds no label"),
            (
                {"a.1.jpg": b"", "a.2.jpg": b""},
                "second image, a.2.jpg: a sample's name ends at its",
            ),
            (
                {"a.jpg": b"", "a.1.cls": b"", "a.2.cls": b""},
                "second label, a.2.cls: a sample's name",
            ),
            ({"a.jpg": b"", "b.jpg": b"", "a.png": b""}, "'a' has a second image, a.png"),
            ({}, "holds no sample"),
        ],
    )
    def test_samples_that_cannot_be_used(
        self, members: dict[str, bytes], reason: str, tmp_path: Path
    ) -> None:
        path = tar(tmp_path / "a b.tar", members)
        with pytest.raises(GoogLeNetError) as error:
            index_shard(path)
        assert str(error.value).startswith(f"{path}: ")
        assert reason in str(error.value)

    @pytest.mark.parametrize(
        ("member", "content"),
        [
            ("a.json", b'{"caption": "a dog", "label": 7}'),
            ("a.json", b'{"cls": 7}'),
            ("a.txt", b"7\n"),
            ("a.label.cls", b"7"),
        ],
    )
    def test_other_labels(self, member: str, content: bytes, tmp_path: Path) -> None:
        path = tar(tmp_path / "a.tar", {"a.jpg": b"", member: content})
        assert index_shard(path).labels == [7]

    def test_the_best_label_counts(self, tmp_path: Path) -> None:
        members = {"a.jpg": b"", "a.txt": b"1", "a.json": b'{"label": 2}', "a.cls": b"3"}
        path = tar(tmp_path / "a.tar", members)
        assert index_shard(path).labels == [3]
        path = tar(tmp_path / "b.tar", {"a.jpg": b"", "a.txt": b"1", "a.json": b'{"label": 2}'})
        assert index_shard(path).labels == [2]

    def test_an_image_of_a_type_with_more_dots(self, tmp_path: Path) -> None:
        path = tar(
            tmp_path / "a.tar",
            {"a.input.jpg": b"", "a.cls": b"1", "b.2020.png": b"", "b.cls": b"2"},
        )
        assert index_shard(path).names == ["a.input.jpg", "b.2020.png"]

    def test_members_need_not_be_neighbours(self, tmp_path: Path) -> None:
        members = {f"{i}.jpg": b"%d" % i for i in range(3)} | {
            f"{i}.cls": b"%d" % i for i in (2, 0, 1)
        }
        index = index_shard(tar(tmp_path / "a.tar", members))
        assert index.names == ["0.jpg", "1.jpg", "2.jpg"]
        assert index.labels == [0, 1, 2]

    def test_a_sample_may_come_again(self, tmp_path: Path) -> None:
        """As in shards that were joined."""
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            for name, content in (
                ("0.jpg", b"a"), ("0.cls", b"1"), ("1.jpg", b"b"), ("1.cls", b"2"),
                ("0.jpg", b"c"), ("0.cls", b"3"),
            ):  # fmt: skip
                member = tarfile.TarInfo(name)
                member.size = 1
                archive.addfile(member, io.BytesIO(content))
        assert index_shard(tmp_path / "a.tar").labels == [1, 2, 3]

    @pytest.mark.parametrize(
        ("name", "mode", "program"),
        [("a.tar.gz", "w:gz", "gzip"), ("a.tar", "w:bz2", "bzip2"), ("a.tar.xz", "w:xz", "xz")],
    )
    def test_compressed_files_are_refused_by_their_cause(
        self, name: str, mode: Any, program: str, tmp_path: Path
    ) -> None:
        (tmp_path / "in").mkdir()
        with tarfile.open(tmp_path / "in" / name, mode) as archive:
            archive.addfile(tarfile.TarInfo("0.jpg"))
        for source in (tmp_path / "in" / name, tmp_path / "in"):
            with pytest.raises(GoogLeNetError) as error:
                open_splits(source)
            assert str(error.value) == (
                f"{tmp_path / 'in' / name}: is compressed; unpack it with {program} -d"
            )

    def test_pipes_and_folders_are_not_opened(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.tar")
        (tmp_path / "b.tar").mkdir()
        with pytest.raises(GoogLeNetError, match=r"a\.tar: cannot be read \(not a regular file\)"):
            ImageDataset.from_list(tmp_path / "[a]*.tar")
        with pytest.raises(GoogLeNetError):
            open_splits(tmp_path / "b.tar")

    @pytest.mark.parametrize(
        "damage",
        [
            lambda whole: whole[:1500],  # within the second sample
            lambda whole: whole[:1536],  # between two members
            lambda whole: whole[:1024] + b"?" * 512 + whole[1536:],  # a header of no meaning
            lambda whole: b"",
            lambda whole: b"no tar" * 200,
        ],
    )
    def test_damaged_files_are_not_taken_for_shorter_ones(
        self, damage: Callable[[bytes], bytes], tmp_path: Path
    ) -> None:
        path = tar(tmp_path / "a.tar", sample(0, 0) | sample(1, 1))
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(GoogLeNetError, match=r"a\.tar: is (damaged|not a complete)"):
            index_shard(path)

    def test_mutated_files_never_raise_anything_else(self, tmp_path: Path) -> None:
        generator = random.Random(1)
        path = tar(tmp_path / "a.tar", sample(0, 0) | sample(1, 1) | {"x" * 150 + ".cls": b"1"})
        whole = path.read_bytes()
        refused = 0
        for _ in range(300):
            content = bytearray(whole)
            for _ in range(generator.randint(1, 4)):
                content[generator.randrange(4096)] = generator.choice(b"\x00\xff01789/xgLK")
            path.write_bytes(content[: generator.choice([None, generator.randrange(8192)])])
            try:
                index = index_shard(path)
                size = path.stat().st_size
                assert all(o + s <= size for o, s in zip(index.offsets, index.sizes, strict=True))
            except GoogLeNetError:
                refused += 1
        assert refused > 100

    def test_the_index_is_kept_until_the_shard_changes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GOOGLENET_FAST_CACHE", str(tmp_path / "cache"))
        path = tar(tmp_path / "a.tar", sample(0, 0))
        first = index_shard(path)
        with monkeypatch.context() as patch:
            patch.setattr(tarfile, "open", None)  # it is not read again
            assert index_shard(path) == first
        tar(path, sample(0, 0) | sample(1, 1))
        assert index_shard(path).labels == [0, 1]
        tar(path, sample(0, 2) | sample(1, 3))
        os.utime(path, ns=(0, path.stat().st_mtime_ns))
        assert index_shard(path).labels == [2, 3]

    @pytest.mark.parametrize("by_renaming", [True, False])
    def test_a_shard_remade_with_the_same_size_and_time_is_noticed(
        self, by_renaming: bool, tmp_path: Path
    ) -> None:
        path = tar(tmp_path / "a.tar", sample(0, 0) | sample(1, 1))
        assert index_shard(path).labels == [0, 1]
        before = path.stat()
        other = tar(tmp_path / "b.tar", sample(0, 1) | sample(1, 0))
        if by_renaming:
            other.replace(path)
        else:
            path.write_bytes(other.read_bytes())
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert [before.st_size, before.st_mtime_ns] == [
            path.stat().st_size,
            path.stat().st_mtime_ns,
        ]
        assert index_shard(path).labels == [1, 0]

    @pytest.mark.parametrize(
        "damage",
        [
            lambda whole: b"",
            lambda whole: b'{"stamp": 3}',
            lambda whole: whole[: len(whole) // 2],
            lambda whole: whole.replace(b'"labels": [0, 1]', b'"labels": [-7, 1]'),
            lambda whole: whole.replace(b'"labels": [0, 1]', b'"labels": [1, 0]'),
            lambda whole: whole.replace(b'"offsets": [512', b'"offsets": [1099511627776'),
            lambda whole: whole.replace(b'"sizes": [7, 7]', b'"sizes": [7, 99999]'),
        ],
    )
    def test_a_damaged_index_is_made_again(
        self,
        damage: Callable[[bytes], bytes],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setenv("GOOGLENET_FAST_CACHE", str(tmp_path / "cache"))
        path = tar(tmp_path / "a.tar", sample(0, 0) | sample(1, 1))
        first = index_shard(path)
        (cached,) = (tmp_path / "cache" / "shards").iterdir()
        whole = cached.read_bytes()
        assert damage(whole) != whole
        cached.write_bytes(damage(whole))
        assert index_shard(path) == first
        assert "the shard is indexed again" in caplog.text
        assert cached.read_bytes() == whole

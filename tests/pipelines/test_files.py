"""Files are complete or absent, on this machine and in a store that Beam can reach: here, a dictionary."""

import errno
import hashlib
import io
import json
import os
import re

import pytest
import tensorflow as tf
from apache_beam.io.filesystem import FileMetadata, FileSystem

from pipelines import coco_to_tfrecord, files

STORE = {}  # path -> bytes


class Memory(FileSystem):
    """A store of objects like gs:// or s3://: no folders, whole objects only, no renaming onto an existing object."""

    @classmethod
    def scheme(cls):
        return "mem"

    def has_dirs(self):
        return False

    def _list(self, dir_or_prefix):
        yield from (self.metadata(path) for path in sorted(STORE) if path.startswith(dir_or_prefix))

    def create(self, path, mime_type="", compression_type="auto"):
        return Upload(path)

    def open(self, path, mime_type="", compression_type="auto"):
        return io.BytesIO(STORE[path])

    def rename(self, source_file_names, destination_file_names):
        for source, destination in zip(source_file_names, destination_file_names, strict=True):
            assert destination not in STORE
            STORE[destination] = STORE.pop(source)

    def exists(self, path):
        return path in STORE

    def metadata(self, path):
        return FileMetadata(path, len(STORE[path]))

    def size(self, path):
        return len(STORE[path])

    def delete(self, paths):
        for path in paths:
            del STORE[path]

    def join(self, basepath, *paths):
        return "/".join((basepath, *paths))

    def split(self, path):
        return path.rpartition("/")[::2]

    def mkdirs(self, path):
        pass

    copy = checksum = last_updated = None


class Upload(io.BytesIO):
    """An object that appears in the store once it is closed."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def close(self):
        STORE[self.path] = self.getvalue()
        super().close()


@pytest.fixture(params=["here", "store"])
def folder(request, tmp_path):
    """The path of an empty folder, of either kind."""
    STORE.clear()
    return str(tmp_path) if request.param == "here" else "mem://bucket/folder"


def test_json_is_read_as_written(folder):
    path = files.join(folder, "a.json")
    assert files.read_json(path) is None and files.size(path) is None
    for content in ({"ü": [1, None]}, [2]):
        files.write_json(path, content)
        assert files.read_json(path) == content
    assert files.names(folder, "*") == ["a.json"]
    assert files.size(path) == len(files.read_bytes(path))
    files.remove(path)
    files.remove(path)
    assert files.names(folder, "*") == []


def test_a_file_with_the_same_content_is_not_rewritten(folder, monkeypatch):
    path, lines = files.join(folder, "a.json"), files.join(folder, "a.jsonl")
    files.write_json(path, {"a": 1})
    digest = files.write_json_lines(lines, [1])
    with monkeypatch.context() as patch:
        patch.setattr(files, "atomic_write", None)
        files.write_json(path, {"a": 1})
        assert files.write_json_lines(lines, [1]) == digest == files.sha256(lines)
    files.write_json(path, {"a": 2})
    assert files.read_json(path) == {"a": 2}


def test_a_checksummed_file_reveals_damage(folder):
    path = files.join(folder, "a.json")
    content = {"b": [1, None, "ü"], "a": {"c": 0.5}}
    files.write_checksummed_json(path, content)
    assert files.read_checksummed_json(path) == content
    for damaged in ({"b": [2]}, [1], {**content, files.CHECKSUM: "0"}):
        files.write_json(path, damaged)
        assert files.read_checksummed_json(path) is None


def test_a_stamp_changes_with_the_file(folder):
    path = files.join(folder, "b", "a.json")
    files.make_folder(files.join(folder, "b"))
    files.write_json(path, 1)
    stamp = files.stamp_reader(folder)("b/a.json")
    assert stamp == files.stamp_reader(folder)("b/a.json")
    assert files.stamp_reader(folder)("b/none.json") is None
    files.write_json(path, 10)
    assert stamp != files.stamp_reader(folder)("b/a.json") is not None


def test_errors_are_explained_in_one_line():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert files.describe_error(full, "records/a") == "records/a: No space left on device"
    named = OSError(errno.EROFS, os.strerror(errno.EROFS), "records/a.tfrecord.tmp-0123abcd")
    assert files.describe_error(named, "records") == "records/a.tfrecord: Read-only file system"
    quoted = tf.errors.ResourceExhaustedError(None, None, "records/a.tmp-01ab; No space left on device")
    assert files.describe_error(quoted, "records/a") == "records/a: No space left on device"


def test_lines_and_checksums(folder):
    path = files.join(folder, "a.jsonl")
    files.write_json_lines(path, [{"a": "ü\n"}, 2])
    assert [json.loads(line) for line in files.read_lines(path)] == [{"a": "ü\n"}, 2]
    written = '{"a": "ü\\n"}\n2\n'.encode()
    assert files.read_bytes(path) == written
    assert files.sha256(path) == hashlib.sha256(written).hexdigest()


def test_a_file_is_complete_or_absent(folder):
    path = files.join(folder, "a")
    with pytest.raises(KeyError), files.atomic_write(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyError
    assert files.names(folder, "*") == []
    with pytest.raises(FileNotFoundError):
        files.read_bytes(path)


def test_unfinished_files_of_a_killed_run_are_removed(folder):
    for name in (f"a.tfrecord.tmp-{'12' * 16}", "a.tfrecord", "notes.tmp-old.txt"):
        files.write_json(files.join(folder, name), 1)
    files.remove_temporaries(folder)
    assert files.names(folder, "*") == ["a.tfrecord", "notes.tmp-old.txt"]


def test_folders(folder):
    assert not files.is_folder(files.join(folder, "b"))
    files.make_folder(files.join(folder, "b"))
    files.make_folder(files.join(folder, "b"))
    files.write_json(files.join(folder, "b", "c"), 1)
    assert files.is_folder(files.join(folder, "b"))
    assert files.base_name(files.join(folder, "b") + "/") == "b"


def test_a_failed_upload_leaves_nothing(monkeypatch):
    STORE.clear()

    def refuse(self, sources, destinations):
        raise OSError("no right to rename")

    monkeypatch.setattr(Memory, "rename", refuse)
    with pytest.raises(OSError, match="no right"):
        files.write_json("mem://bucket/a", 1)
    assert not STORE


def test_a_stores_failure_is_not_a_missing_file(monkeypatch):
    STORE.clear()
    files.write_json("mem://bucket/a", 1)

    def refuse(self, path, mime_type="", compression_type="auto"):
        raise OSError("out of order")

    monkeypatch.setattr(Memory, "open", refuse)
    with pytest.raises(OSError, match="out of order"):
        files.read_json("mem://bucket/a")


@pytest.fixture
def words(tiny_data):
    """The command's flags for the tiny data, copied to the store."""
    STORE.clear()
    stuff = tiny_data.annotations.parent.parent / "stuffthingmaps" / "train2017"
    for name, source in (("images", tiny_data.images), ("stuff", stuff)):
        STORE.update({f"mem://bucket/{name}/{path.name}": path.read_bytes() for path in source.iterdir()})
    STORE["mem://bucket/a/instances_train2017.json"] = tiny_data.annotations.read_bytes()
    flags = {"annotations": "mem://bucket/a/instances_train2017.json", "images": "mem://bucket/images"}
    flags |= {"stuff": "mem://bucket/stuff/", "output": "mem://bucket/records", "shards": 2}
    return [f"--{name}={value}" for name, value in flags.items()]


def records():
    prefix = "mem://bucket/records/"
    return {path.removeprefix(prefix): content for path, content in STORE.items() if path.startswith(prefix)}


def data_set(contents):
    """Returns all files except those with stamps of the image files, which depend on where these are."""
    marks = [name for name in contents if re.fullmatch(r"plan\.json|plan/files\.json|\d+-of-\d+\.json", name)]
    return {name: content for name, content in contents.items() if name not in marks}


def test_a_whole_job_in_a_store(words, tiny_data):
    """The same files as on this machine, and no others; also after a run that was stopped."""
    paths = [path for path in tiny_data.records.rglob("*") if path.is_file()]
    expected = {path.relative_to(tiny_data.records).as_posix(): path.read_bytes() for path in paths}
    coco_to_tfrecord.main(words)
    written = records()
    assert written.keys() == expected.keys()
    assert data_set(written) == data_set(expected)
    for name in ("dataset_info.json", "00001-of-00002.json"):
        del STORE[f"mem://bucket/records/{name}"]
    STORE[f"mem://bucket/records/00001-of-00002.tfrecord.tmp-{'12' * 16}"] = b"half"
    coco_to_tfrecord.main(words)
    assert records() == written


def test_an_image_missing_from_a_store_is_named(words, tiny_data, capsys):
    name = min(path.name for path in tiny_data.images.iterdir())
    del STORE[f"mem://bucket/images/{name}"]
    with pytest.raises(SystemExit) as end:
        coco_to_tfrecord.main([*words, "--max_bad_fraction=0"])
    assert end.value.code == 2
    assert f"mem://bucket/images/{name}: no such file" in capsys.readouterr().err
    row = json.loads(records()["rejected.jsonl"])
    assert (row["reason"], row["file_name"]) == ("image_missing", name)


def test_several_annotation_files_in_a_store(words, capsys):
    STORE["mem://bucket/a/more.json"] = STORE["mem://bucket/a/instances_train2017.json"]
    words = [word for word in words if not word.startswith("--annotations")]
    coco_to_tfrecord.main([*words, "--annotations=mem://bucket/a/*.json"])
    written = records()
    assert list(json.loads(written["dataset_info.json"])["inputs"]) == ["1/instances_train2017.json", "2/more.json"]
    assert len(json.loads(written["annotations.json"])["images"]) == 6
    assert json.loads(written["dataset_info.json"])["counters"]["images_united"] == 6
    del STORE["mem://bucket/records/annotations.json"]
    coco_to_tfrecord.main([*words, "--annotations=mem://bucket/a/*.json"])
    assert records() == written
    with pytest.raises(SystemExit):
        coco_to_tfrecord.main([*words, "--annotations=mem://bucket/a/*.jsonl"])
    assert "mem://bucket/a/*.jsonl: no file matches this pattern" in capsys.readouterr().err


def test_a_store_that_is_not_installed_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        coco_to_tfrecord.main(["--annotations=nowhere://a.json", f"--images={tmp_path}", f"--output={tmp_path}"])
    assert end.value.code == 2
    assert "nowhere://a.json" in capsys.readouterr().err

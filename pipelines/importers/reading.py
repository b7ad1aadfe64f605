"""All files of an annotation tool in a folder, read to images; what cannot be used becomes a line of text each.

Names come from anybody: files that are no regular ones are not opened (a pipe would be waited for), folders that are
links are not entered, and names that are not Unicode, which no annotation file can hold, are left out.
"""

import os
from pathlib import Path
from types import ModuleType

from htc_tf.progress import progress_bar

from ..checks import Rejected, encodable
from ..file_names import IMAGE_SUFFIXES
from .labeled import LabeledImage

ARCHIVE_FOLDER = "__MACOSX"  # of a Mac's zip files: it repeats every name


def list_files(
    folder: Path, endings: tuple[str, ...], pruned: set[str] = frozenset()
) -> tuple[list[Path], dict[str, None]]:
    """Finds the files below a folder whose names have one of the endings. Hidden ones (.name) are not searched.

    Args:
        folder: The folder.
        endings: In lower case.
        pruned: Real paths of folders that are left out.
    Returns:
        (sorted paths, problems), the second as the keys of a dict.
    """
    found, problems = [], {}

    def report(error):
        problems[f"{error.filename}: {error.strerror}: no file in it is read"] = None

    for place, folders, names in os.walk(folder, onerror=report):
        visible = {name for name in (*folders, *names) if not name.startswith(".") and name != ARCHIVE_FOLDER}
        for name in list(folders):
            path = os.path.join(place, name)
            linked = os.path.islink(path)
            if linked and name in visible:
                problems[f"{path}: a link to a folder is not searched: give that folder itself"] = None
            if linked or name not in visible or os.path.realpath(path) in pruned:
                folders.remove(name)
        for name in names:
            if name in visible and name.lower().endswith(endings):
                path = os.path.join(place, name)
                if os.path.isfile(path):
                    found.append(path)
                else:
                    problems[f"{path}: it is neither a file nor a link to one"] = None
    return [Path(path) for path in sorted(found)], problems


def read_all(tool: ModuleType, paths: list[Path], images: Path) -> tuple[dict[str, LabeledImage], list[str]]:
    """Reads files of a tool.

    Args:
        tool: A module of `pipelines.importers`.
        paths: The tool's files.
        images: The folder of the images; those that no file describes are read too, if the tool allows it.
    Returns:
        ({file name: image} in the order of names, problems).
    """
    entries, problems = {}, []
    for path, found in _read_images(tool, paths, images):
        try:
            if isinstance(found, Rejected):
                raise found
            _check_name(found.file_name)
            if found.file_name in entries:
                raise Rejected("image_duplicate", f"another entry describes the image {found.file_name}")
        except Rejected as error:
            problems.append(f"{path}: {error.detail}")
            continue
        entries[found.file_name] = found
        problems += [f"{path}: {problem}" for problem in found.problems]
    read_unlabeled = getattr(tool, "read_unlabeled", lambda path, images: None)
    holds_labels = getattr(tool, "holds_labels", lambda path: False)
    listed, unreadable = list_files(images, IMAGE_SUFFIXES)
    for path in listed:
        name = path.relative_to(images).as_posix()
        if name in entries or holds_labels(path):
            continue
        try:
            _check_name(name)
            found = read_unlabeled(path, images)
            if found is None:
                raise Rejected("annotation_malformed", "no usable annotation file")
            entries[name] = found
        except Rejected as error:
            problems.append(f"{path}: {error.detail}")
    return dict(sorted(entries.items())), [*problems, *unreadable]


def _check_name(name):
    if encodable(name) != name:
        raise Rejected("image_malformed", f"the name of the image {encodable(name)} is not Unicode: rename the file")


def _read_images(tool, paths, images):
    """Yields (path, image or Rejected) of all files. The progress bar counts files, or the images of a single file."""
    alone = len(paths) == 1
    with progress_bar(desc="images" if alone else "files", unit="", total=None if alone else len(paths)) as bar:
        for path in paths:
            try:
                for found in tool.read(path, images):
                    yield path, found
                    bar.update(alone)
            except Rejected as error:
                yield path, error
            bar.update(not alone)

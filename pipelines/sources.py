"""Input of a preparation: the annotation files that the flags name, and the folders of their images."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from htc_tf.errors import UserError
from htc_tf.path_patterns import matching

from . import coco, files

PATTERN = "*?["


@dataclass(frozen=True)
class ImageFolders:
    """The image folders of the annotation files.

    Attributes:
        root: The folder that the records' file names are relative to: the images', or the one around all of them.
        each: The folder of each annotation file. Paths are as `files.resolve` returns them.
    """

    root: str
    each: tuple[str, ...]

    @property
    def different(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.each))


def find_annotations(words: Sequence[str], flag: str = "--annotations") -> list[str]:
    """Returns the annotation files in the order of the words, those of a pattern sorted, each once.

    Raises:
        UserError: A word names no file, or an empty one.
    """
    found = [path for word in words for path in _expand(word, flag)]
    first = {}
    for path in found:
        coco.check_file(path, flag)
        first.setdefault(files.resolve(path), path)
    return list(first.values())


def find_folders(words: Sequence[str], annotations: Sequence[str], flag: str = "--images") -> ImageFolders:
    """Returns the image folders of the annotation files.

    Args:
        words: One folder for all files, or one for each.
        annotations: The annotation files.
        flag: The flag that gives the folders, for messages.
    Raises:
        UserError: A folder does not exist, or their number is another.
    """
    for folder in words:
        if not files.is_folder(folder):
            raise UserError(f"{flag} {folder}: no such folder")
    if len(words) not in (1, len(annotations)):
        raise UserError(
            f"{flag} names {len(words)} folders for {len(annotations)} annotation files: give one for all, or one for "
            "each, in the same order"
        )
    each = tuple(files.resolve(folder) for folder in words) * (len(annotations) if len(words) == 1 else 1)
    different = set(each)
    if len(different) == 1:
        return ImageFolders(each[0], each)
    if any(map(files.is_remote, different)):
        raise UserError(f"{flag}: several folders must be on this machine; in a store, give the one around them")
    try:
        return ImageFolders(os.path.commonpath(different), each)
    except ValueError:  # drives of Windows
        raise UserError(f"{flag}: no folder contains {' and '.join(sorted(different))}") from None


def identify(
    annotations: Sequence[str], images: ImageFolders, stuff: str | None, panoptic_file: str | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Identifies the input of a preparation, to notice another input of a later run.

    Returns:
        (inputs, folders), of `plan.Plan`. The names of several annotation files have their number before them, because
        the order decides which ids change.
    """
    several = len(annotations) > 1
    inputs = {
        f"{number}/{files.base_name(path)}" if several else files.base_name(path): files.sha256(path)
        for number, path in enumerate(annotations, 1)
    }
    if panoptic_file:
        inputs[f"stuff/{files.base_name(panoptic_file)}"] = files.sha256(panoptic_file)
    folders = {"images": images.root} | ({"stuff": files.resolve(stuff)} if stuff else {})
    if len(images.different) > 1:
        folders["images of the files"] = " ".join(images.each)
    return inputs, folders


def _expand(word, flag):
    # In a store, `files.size` would take the pattern for a name.
    if not set(PATTERN) & set(word) or (not files.is_remote(word) and files.size(word) is not None):
        return [word]
    if files.is_remote(word):
        folder = word.rstrip("/").rpartition("/")[0]
        found = [files.join(folder, name) for name in files.names(folder, files.base_name(word))]
    else:
        found = sorted(path for path in matching(word) if os.path.isfile(path))
    if not found:
        raise UserError(f"{flag} {word}: no file matches this pattern")
    return found

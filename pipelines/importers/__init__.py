"""Importers: the files of annotation tools, read as images and objects in COCO's terms. `pipelines.to_coco` runs them.

Each module reads the files of one tool. It has `PATTERN`, a glob of the tool's files; `IGNORED`, labels of what is no
object; and `read(path, images)`, which yields the `labeled.LabeledImage`s of one file.
"""

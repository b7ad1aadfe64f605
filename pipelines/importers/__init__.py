"""Importers: the files of annotation tools, read as images and objects in COCO's terms. `pipelines.to_coco` runs them.

Each module reads the files of one tool:

- `ENDINGS`: a tuple of the ends of its files' names, in lower case, such as ".json".
- `IGNORED`: a tuple of labels that are no objects.
- `read(path, images)`: yields the images of one file of the tool, each as a `labeled.LabeledImage`, or as a
  `pipelines.checks.Rejected` if that image cannot be used; it raises Rejected if the whole file cannot, and yields
  nothing if the file is another one of the tool. `images` is the folder that the names of images are relative to.

If the tool has them, also:

- `read_classes(paths, images)`: returns the names of the classes in the tool's order, from all its files.
- `list_warnings(paths, images)`: returns texts that the summary shows as warnings, from all its files.
- `OPTIONAL`: a tuple of labels that are no objects unless --classes names them.
- `read_unlabeled(path, images)`: returns the LabeledImage of an image that no file describes, if that means an image
  without objects; None if it does not.
- `holds_labels(path)`: True for an image file of labels, which is no image of the data set.

`reading` reads all files of a folder. Parts that several tools need: `image_files` finds images and their sizes,
`documents` reads JSON, XML and text, and `outlines` makes polygons and run lengths of shapes.
"""

"""python -m htc_tf.client: asks an exported SavedModel about pictures, with TensorFlow and none of our model's code."""

import argparse
import json
from pathlib import Path

from htc_tf.errors import UserError, command


def parse():
    parser = argparse.ArgumentParser(prog="python -m htc_tf.client", description=__doc__)
    parser.add_argument("--export", required=True, metavar="EXPORT", help="the --output of htc_tf.export")
    parser.add_argument("--input", required=True, nargs="+", metavar="FILE", help="JPEG, PNG, GIF or BMP files")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score to report (default: 0.3)")
    return parser.parse_args()


def newest_version(export):
    """EXPORT/N with the highest N, as a model server would choose it."""
    versions = [path for path in Path(export).glob("*") if path.name.isdigit()]
    if not versions:
        raise UserError(f"{export} holds no exported model; make one with python -m htc_tf.export")
    return max(versions, key=lambda path: int(path.name))


@command
def main():
    flags = parse()
    version = newest_version(flags.export)
    missing = [name for name in flags.input if not Path(name).is_file()]
    if missing:
        raise UserError(f"--input {missing[0]}: no such file")
    import tensorflow as tf

    predict = tf.saved_model.load(str(version)).signatures["serving_default"]
    for name in flags.input:
        try:
            answer = predict(image_bytes=tf.constant([Path(name).read_bytes()]))
        except tf.errors.InvalidArgumentError as error:
            raise UserError(
                f"{name}: not a picture that the model decodes ({error.message.splitlines()[0]})"
            ) from error
        found = [
            {"class": label.decode(), "score": round(float(score), 4), "box": [round(float(x), 2) for x in box]}
            for label, score, box in zip(
                answer["class_names"][0].numpy(), answer["scores"][0].numpy(), answer["boxes"][0].numpy(), strict=True
            )
        ]
        found = [row for row in found[: int(answer["num_detections"][0])] if row["score"] >= flags.threshold]
        print(json.dumps({"file": name, "detections": found}))


if __name__ == "__main__":
    main()

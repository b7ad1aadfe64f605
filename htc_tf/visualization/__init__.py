"""Drawing: detections, labels, colors, fonts and charts. No TensorFlow here, so that the pipelines may use it."""

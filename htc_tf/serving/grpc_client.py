"""gRPC client of TensorFlow Serving: the same outputs as by REST, in fewer bytes."""

import re

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from htc_tf.errors import ModelFailed, TooLate, UserError, reason_of
from htc_tf.serving.messages import PREDICT, PredictRequest, PredictResponse, predict_request, read_arrays
from htc_tf.serving.rest_client import max_answer, not_an_answer, too_large, with_port

PORT = 8500


class GrpcClient:
    """A model in a server. Every failure is a UserError of one line, a ModelFailed if another request may succeed."""

    def __init__(self, address, model, version, timeout):
        """
        Args:
            address: "host" or "host:port".
            model: the model's name in the server.
            version: int, or None for the newest.
            timeout: seconds to wait for an answer.
        """
        if "://" in address:
            raise UserError(f"--server {address} is not an address (a URL, with --grpc): give host or host:port")
        self.address, self.model, self.version, self.timeout = address, model, version, timeout
        self.channels = {}

    def predict(self, files):
        """Returns {output: array [B, ...]} for B encoded images; strings are arrays of bytes objects."""
        request = predict_request(self.model, self.version, {"image_bytes": np.array(files, object)})
        limit = max_answer(len(files))
        # The answer is parsed here: gRPC would log the traceback of another message.
        call = self.channel(limit).unary_unary(PREDICT, PredictRequest.SerializeToString)
        try:
            content = call(request, timeout=self.timeout)
        except grpc.RpcError as error:
            raise self.explain(error.code(), reason_of(error.details() or ""), limit) from None
        try:
            outputs = PredictResponse.FromString(content).outputs
        except DecodeError:
            raise not_an_answer(self.address, content) from None
        return read_arrays(outputs)

    def channel(self, limit):
        """Returns a channel for answers of at most `limit` bytes, which holds for all calls on a channel."""
        if limit not in self.channels:
            options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", limit)]  # not 4 MB
            self.channels[limit] = grpc.insecure_channel(with_port(self.address, PORT), options=options)
        return self.channels[limit]

    def explain(self, code, message, limit):
        """Returns the exception for a gRPC status code of a call whose answer may have `limit` bytes."""
        # The server's own limit on requests is another number.
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and re.search(rf"vs\. {limit}\)|Decompressed message", message):
            return too_large(self.address, limit)
        if code is grpc.StatusCode.UNAVAILABLE:
            return UserError(
                f"{self.address}: no gRPC server answers ({message}): start it, or name another with --server "
                f"host:port; TensorFlow Serving's gRPC is at port {PORT}"
            )
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return TooLate(f"{self.address}: no answer within {self.timeout:g} seconds: allow more with --timeout")
        if code is grpc.StatusCode.NOT_FOUND:
            return UserError(
                f"{self.address}: no model {self.model!r} is ready there ({message}): name another with --model or "
                "--version, or wait until it is loaded"
            )
        return ModelFailed(f"{self.address}: refused with {code.name}: {message}")

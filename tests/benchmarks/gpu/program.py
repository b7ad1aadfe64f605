"""Compiles programs/NAME.hlo.xz on the device that jax sees, and times it.

NAME.json.xz describes the parameters, which NumPy draws, the same in every run. It uses inner functions of jax, as
there is no public one that compiles HLO; jaxlib 0.11.2 has them.
"""

import lzma
import sys
import time

import common
import jax
import numpy as np
from hlo_parameters import draw
from jax._src import xla_bridge
from jax._src.lib import xla_client


def compile_hlo(serialized, device):
    """Returns an executable of a serialized HloModuleProto."""
    computation = xla_client.XlaComputation(serialized)
    module = xla_client._xla.mlir.xla_computation_to_mlir_module(computation)
    devices = xla_client.DeviceList((device,))
    return xla_bridge.get_backend().compile_and_load(module, devices, xla_client.CompileOptions())


def main():
    flags = common.parse(__doc__, "name")
    about = common.read_description(flags.name)
    device = jax.devices()[0]
    inputs = [jax.device_put(draw(i, parameter), device) for i, parameter in enumerate(about["parameters"])]
    began = time.perf_counter()
    program = compile_hlo(lzma.decompress((common.PROGRAMS / f"{flags.name}.hlo.xz").read_bytes()), device)
    compiled = round(time.perf_counter() - began, 1)
    print(f"{flags.name}: compiled in {compiled} s", file=sys.stderr, flush=True)

    def step():
        outputs = program.execute(inputs)
        for output in outputs:
            output.block_until_ready()
        return outputs

    arrays = [np.asarray(output) for output in step()]
    floats = [array.astype(np.float32) for array in arrays if jax.numpy.issubdtype(array.dtype, np.floating)]
    finite = all(np.isfinite(array).all() for array in floats)
    times = common.time_runs(step, flags.runs)
    memory = (device.memory_stats() or {}).get("peak_bytes_in_use")
    common.report(
        program=flags.name,
        compile_s=compiled,
        **times,
        images=about["work"]["batch"],
        tflop_per_second=round(1e-9 * about["flop"] / times["median_ms"], 2),
        peak_gb=memory and round(memory / 1e9, 2),
        instructions=about["instructions"],
        outputs_finite=finite,
    )


if __name__ == "__main__":
    main()

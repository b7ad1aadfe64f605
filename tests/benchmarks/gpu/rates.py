"""Measures what the device can do at most, by jax: matrix products in three precisions, and copies."""

import common
import jax
import jax.numpy as jnp

SIDE, CPU_SIDE = 8192, 1024
BYTES, CPU_BYTES = 2**30, 2**26
# name: type of the factors, precision of the product.
PRODUCTS = {
    "bfloat16": (jnp.bfloat16, "default"),
    "tf32": (jnp.float32, "tensorfloat32"),
    "float32": (jnp.float32, "highest"),
}


def main():
    flags = common.parse(__doc__)
    device = jax.devices()[0]
    common.report(device=device.device_kind, platform=device.platform, jax=jax.__version__)
    side = CPU_SIDE if flags.cpu else SIDE
    for name, (dtype, precision) in PRODUCTS.items():
        left, right = (jax.random.normal(jax.random.key(seed), (side, side)).astype(dtype) for seed in (0, 1))
        product = jax.jit(lambda a, b, precision=precision: jnp.matmul(a, b, precision=precision))
        times = common.time_runs(lambda: product(left, right).block_until_ready(), flags.runs)  # noqa: B023
        common.report(rate=f"products {name}", tflop_per_second=round(2e-9 * side**3 / times["median_ms"], 2))
    array = jnp.zeros(CPU_BYTES if flags.cpu else BYTES, jnp.uint8)
    invert = jax.jit(lambda x: ~x)
    times = common.time_runs(lambda: invert(array).block_until_ready(), flags.runs)
    common.report(rate="copies", gb_per_second=round(2e-6 * array.size / times["median_ms"], 1))


if __name__ == "__main__":
    main()

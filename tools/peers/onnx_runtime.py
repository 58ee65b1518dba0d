"""onnxruntime as the judge of ONNX files, and the author of some.

    python onnx_runtime.py run FILE.onnx FLOAT_DIR     each MatMulNBits node on random activations, against the product with our decoded weights
    python onnx_runtime.py fixtures OUT                small files of its quantizer, with what its operator decodes: crates/checkpoint/testdata/onnx

FLOAT_DIR is what `convert FILE.onnx FLOAT_DIR --to float` made of the file. Needs onnx, onnxruntime, numpy, safetensors; seen with onnx 1.23.2 and
onnxruntime 1.32.0. Prints a JSON object; exit status 1 if a product differs by more than float error.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper


def session(model):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(file, floats):
    from safetensors.numpy import load_file

    weights = {}
    for part in sorted(Path(floats).glob("*.safetensors")):
        weights |= load_file(part)
    model = onnx.load(file)
    onnx.checker.check_model(model)
    runner = session(model)
    random = np.random.default_rng(1)
    feeds = {}
    for value in runner.get_inputs():
        kind = np.float16 if "float16" in value.type else np.float32
        feeds[value.name] = random.standard_normal((5, value.shape[1])).astype(kind)
    names = [value.name for value in runner.get_outputs()]
    report = {}
    for name, got in zip(names, runner.run(names, feeds)):
        module = name.removesuffix(".output")
        x = feeds[f"{module}.input"].astype(np.float64)
        w = weights[f"{module}.weight"].astype(np.float64)
        expected = x @ w.T
        # Of a sum of K products in this type, in any order; and of the result.
        eps = np.finfo(got.dtype).eps
        bound = (np.abs(x) @ np.abs(w).T) * (w.shape[1] ** 0.5 + 16) * eps
        report[module] = float(np.max(np.abs(got - expected) / bound))
    plain = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    same = all(np.array_equal(plain[n].astype(np.float32), w.astype(np.float32)) for n, w in weights.items() if n in plain)
    worst = max(report.values())
    print(json.dumps({"nodes": len(report), "largest share of the bound": worst, "other tensors equal": same}))
    return worst <= 1 and same


def fixtures(out):
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(7)
    for name, bits, symmetric, block in [
        ("int4-affine-g16", 4, False, 16),
        ("int4-sym-g32", 4, True, 32),
        ("int8-affine-g32", 8, False, 32),
    ]:
        k, n = 80, 12
        weight = (random.standard_normal((k, n)) * 0.1 + 0.02).astype(np.float32)
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "proj.weight"], ["y"], name="proj")],
            "one",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, k])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, n])],
            [numpy_helper.from_array(weight, "proj.weight")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        config = DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=symmetric, bits=bits)
        quantizer = MatMulNBitsQuantizer(model, algo_config=config)
        quantizer.process()
        model = quantizer.model.model
        onnx.save(model, out / f"{name}.onnx")
        # The operator on unit vectors gives its weights, without rounding: all other products are zeros.
        decoded = session(model).run(["y"], {"x": np.eye(k, dtype=np.float32)})[0]
        (out / f"{name}.f32").write_bytes((decoded.T.copy() + 0.0).astype("<f4").tobytes())
    return True


if __name__ == "__main__":
    ok = {"run": run, "fixtures": fixtures}[sys.argv[1]](*sys.argv[2:])
    sys.exit(0 if ok else 1)

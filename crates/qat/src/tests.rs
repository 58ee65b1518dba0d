//! Gradients against finite differences, for whole models and for rounding.

use fewbit_checkpoint::{Dtype, InputRounding};
use fewbit_format::{
    Bits, BlockType, Codebook, CodebookScheme, Float4, Granularity, IntScheme, MatrixShape,
    OffsetScheme, ScaleType, Scheme, Symmetry,
};
use fewbit_model::{Architecture, ModelConfig, NormKind, Role};
use fewbit_testkit::Random;
use serde_json::{Value, json};

use crate::{
    AdapterSpec, BlockTensors, EndTensors, FakeMatrix, Geometry, Layer, Learn, NormValues,
    QatError, Student, TrainBlock, loss, pool::Pool,
};

/// A small model, with settings of its own.
fn config(model_type: &str, more: Value) -> ModelConfig {
    let Value::Object(mut map) = json!({
        "model_type": model_type, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 30,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    }) else {
        unreachable!("an object")
    };
    map.extend(more.as_object().unwrap().clone());
    ModelConfig::parse(&map).unwrap()
}

fn random_model(config: &ModelConfig, seed: u64) -> Student {
    let mut random = Random::new(seed);
    let mut values = |n: usize, mean: f32, deviation: f32| -> Vec<f32> {
        random.normals(n).into_iter().map(|x| mean + x * deviation).collect()
    };
    let kind = config.architecture.norm();
    let norm = |values: &mut dyn FnMut(usize, f32, f32) -> Vec<f32>, width| NormValues {
        gain: values(width, if kind == NormKind::RmsOnePlus { 0.0 } else { 1.0 }, 0.2),
        bias: (kind == NormKind::Layer).then(|| values(width, 0.0, 0.2)),
    };
    let blocks = (0..config.n_layers)
        .map(|layer| {
            let linears = config.roles().map(|role| values(config.shape(role).len(), 0.0, 0.2));
            let linears = linears.collect();
            let biases = config.roles().map(|role| {
                config.has_bias(role).then(|| values(config.shape(role).out_features, 0.0, 0.1))
            });
            let biases = biases.collect();
            let norms = config.architecture.block_norms();
            let norms = norms.map(|n| norm(&mut values, config.norm_width(n))).collect();
            let tensors = BlockTensors { linears, biases, norms, dtype: Dtype::F32 };
            TrainBlock::float(config, layer, tensors)
        })
        .collect();
    let n = config.vocab_size * config.hidden_size;
    let ends = EndTensors {
        embedding: values(n, 0.0, 0.5),
        scale: config.embedding_scale(),
        positions: config
            .positions()
            .map(|_| values(config.max_positions * config.hidden_size, 0.0, 0.3)),
        norm: norm(&mut values, config.hidden_size),
        head: (!config.tied).then(|| values(n, 0.0, 0.3)),
        dtype: Dtype::F32,
    };
    Student { config: config.clone(), ends, blocks }
}

/// The derivative along a direction of each parameter by itself, against the difference of two losses.
fn check_gradients(
    student: &mut Student,
    learn: Learn,
    window: usize,
    loss: impl Fn(&mut [f32]) -> f64,
) {
    let geometry = Geometry::new(&student.config.clone(), window).unwrap();
    let tokens: Vec<u32> = (0..2 * window as u32).map(|i| i * 7 % 30).collect();
    let mut pool = Pool::default();
    let (whole, grads) = student.gradient(&tokens, &geometry, learn, &mut pool, &loss);
    let value = |student: &Student| {
        let mut logits = student.logits(&tokens, &geometry);
        loss(&mut logits)
    };
    let n = student.learned(learn).len();
    assert_eq!(grads.len(), n, "a gradient for each parameter");
    for (i, grad) in grads.iter().enumerate() {
        let length = grad.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!(length > 0.0, "parameter {i} has a gradient");
        // Along the gradient, perturbed: a wrong component cannot hide.
        let mut random = Random::new(i as u64);
        let direction: Vec<f32> = grad
            .iter()
            .map(|g| g / length + 0.5 * random.normal() as f32 / (grad.len() as f32).sqrt())
            .collect();
        let expected: f64 =
            grad.iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
        // Far enough that the rounding of a large loss is little beside the difference.
        let step = ((4e-3f64).max(5e-5 * whole) as f32 / length.max(0.1)).min(1e-2);
        let mut at = |by: f32| {
            let mut params = student.learned(learn);
            let name = params[i].name.clone();
            let values = &mut params[i].values;
            let before = values.to_vec();
            values.iter_mut().zip(&direction).for_each(|(x, d)| *x += by * d);
            let result = value(student);
            student.learned(learn)[i].values.copy_from_slice(&before);
            (result, name)
        };
        let ((above, name), (below, _)) = (at(step), at(-step));
        let difference = (above - below) / (2.0 * f64::from(step));
        let error = (difference - expected).abs();
        assert!(
            error < 0.01 * expected.abs() + 2e-4,
            "{name}: gradient {expected}, difference {difference}"
        );
    }
}

/// Every architecture, with what its settings can switch on.
fn architectures() -> Vec<(ModelConfig, usize)> {
    // One window within a piece of queries, others beyond; spans that end within a piece, at its border, and in the one before.
    let cases = [
        ("llama", json!({"attention_bias": true, "mlp_bias": true}), 9),
        ("mistral", json!({"sliding_window": 5}), 70),
        ("qwen2", json!({"tie_word_embeddings": false}), 70),
        ("qwen3", json!({"attention_bias": true}), 9),
        (
            "gemma3_text",
            json!({"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"],
                "query_pre_attn_scalar": 12, "final_logit_softcapping": 4.0,
                "rope_local_base_freq": 100.0}),
            70,
        ),
        (
            "gpt2",
            json!({"n_embd": 24, "n_inner": 40, "n_layer": 2, "n_head": 4, "n_positions": 12,
                "num_key_value_heads": 4, "head_dim": 6}),
            12,
        ),
        ("exaone", json!({"num_layers": 2, "activation_function": "silu"}), 9),
    ];
    let types = cases.iter().map(|(model_type, ..)| *model_type);
    assert!(types.eq(Architecture::types()), "every architecture of the runtime");
    cases.into_iter().map(|(model_type, more, n)| (config(model_type, more), n)).collect()
}

#[test]
fn gradients_agree_with_finite_differences() {
    // Models so small that threads would only wait for each other.
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    one.install(|| architectures().into_iter().for_each(check_architecture));
}

fn check_architecture((config, window): (ModelConfig, usize)) {
    let mut student = random_model(&config, 3);
    let targets: Vec<u32> = (0..2 * window as u32).map(|i| i * 11 % 30).collect();
    check_gradients(&mut student, Learn::FLOAT, window, |logits| {
        loss::cross_entropy(logits, &targets, None)
    });
    let weights: Vec<f32> = (0..2 * window).map(|i| [1.0, 4.0, 0.0][i % 3]).collect();
    check_gradients(&mut student, Learn::FLOAT, window, |logits| {
        loss::cross_entropy(logits, &targets, Some(&weights))
    });
    let teacher = random_model(&config, 4);
    let tokens: Vec<u32> = (0..2 * window as u32).map(|i| i * 7 % 30).collect();
    let taught = teacher.logits(&tokens, &Geometry::new(&config, window).unwrap());
    check_gradients(&mut student, Learn::FLOAT, window, |logits| {
        loss::divergence(logits, &taught, 30)
    });
    check_gradients(&mut student, Learn::FLOAT, window, |logits| {
        loss::squared_error(logits, &taught, 50.0)
    });
}

/// Every head of a fresh model writes the transpose of its values; in the upper half of the blocks its queries are its keys.
#[test]
fn attention_begins_as_a_copier() {
    for (config, _) in architectures() {
        let student = Student::fresh(&config, 1);
        let (width, size) = (config.hidden_size, config.head_dim);
        for (layer, block) in student.blocks.iter().enumerate() {
            let rows = |role| {
                let place = config.roles().position(|r| r == role)?;
                let Layer::Float(values) = &block.layers[place] else { return None };
                Some(&values[..])
            };
            let n_rows = [config.n_heads, config.n_kv_heads, config.n_kv_heads].map(|n| n * size);
            let [query, key, value] = match rows(Role::QueryKeyValue) {
                Some(all) => {
                    let (query, rest) = all.split_at(n_rows[0] * width);
                    let (key, value) = rest.split_at(n_rows[1] * width);
                    [query, key, value]
                }
                None => [Role::Query, Role::Key, Role::Value].map(|role| rows(role).unwrap()),
            };
            let output = rows(Role::AttentionOutput).unwrap();
            let shrink = 1.0 / (2.0 * config.n_layers as f32).sqrt();
            for row in 0..n_rows[0] {
                let (head, within) = (row / size, row % size);
                let shared = head * config.n_kv_heads / config.n_heads * size + within;
                for i in 0..width {
                    let written = output[i * n_rows[0] + row];
                    assert_eq!(written, value[shared * width + i] * shrink);
                    let same = query[row * width + i] == key[shared * width + i];
                    assert_eq!(same, layer >= config.n_layers / 2, "{}", config.model_type());
                }
            }
        }
    }
}

#[test]
fn learned_positions_bound_the_window() {
    let config = config("gpt2", json!({"n_head": 4, "n_positions": 12}));
    let refused = Geometry::new(&config, 13).unwrap_err();
    assert!(matches!(refused, QatError::Window { window: 13, positions: 12 }), "{refused}");
}

fn scheme(bits: Bits, symmetry: Symmetry, group: u32, scale_type: ScaleType) -> IntScheme {
    IntScheme { bits, symmetry, granularity: Granularity::group(group), scale_type }
}

/// Step sizes under fixed codes have true derivatives, all the way through a model.
#[test]
fn step_sizes_agree_with_finite_differences() {
    let config = config("llama", json!({}));
    let mut student = random_model(&config, 5);
    for block in &mut student.blocks {
        quantize(block, &config, scheme(Bits::B3, Symmetry::Affine, 16, ScaleType::F32));
    }
    student.freeze_codes();
    let targets: Vec<u32> = (0..20).map(|i| i * 11 % 30).collect();
    check_gradients(&mut student, Learn::SCALES, 10, |logits| {
        loss::cross_entropy(logits, &targets, None)
    });
}

/// Adapters begin with nothing, have true derivatives, and can be merged.
#[test]
fn adapters_agree_with_finite_differences() {
    let config = config("llama", json!({}));
    let mut student = random_model(&config, 5);
    for block in &mut student.blocks {
        quantize(block, &config, scheme(Bits::B4, Symmetry::Affine, 8, ScaleType::F16));
    }
    let geometry = Geometry::new(&config, 10).unwrap();
    let tokens: Vec<u32> = (0..20).map(|i| i * 7 % 30).collect();
    let base = student.logits(&tokens, &geometry);
    let spec = AdapterSpec { rank: 3, alpha: 6.0, seed: 1 };
    student.adapt(spec).unwrap();
    assert_eq!(student.logits(&tokens, &geometry), base);
    assert_eq!(student.adapters().count(), 14);
    let mut random = Random::new(2);
    for param in student.learned(Learn::ADAPTERS) {
        param.values.iter_mut().for_each(|x| *x += 0.1 * random.normal() as f32);
    }
    let targets: Vec<u32> = (0..20).map(|i| i * 11 % 30).collect();
    check_gradients(&mut student, Learn::ADAPTERS, 10, |logits| {
        loss::cross_entropy(logits, &targets, None)
    });
    let adapted = student.logits(&tokens, &geometry);
    assert_ne!(adapted, base);
    let merged = student.merged();
    assert_eq!(merged.logits(&tokens, &geometry), adapted);
    assert_eq!(merged.adapters().count(), 0);
    assert!(matches!(
        student.adapt(AdapterSpec { rank: 0, ..spec }).unwrap_err(),
        QatError::Setting { .. }
    ));
}

/// Inputs are rounded where layers are on grids, and gradients pass.
#[test]
fn inputs_are_rounded_on_the_way() {
    let config = config("llama", json!({ "tie_word_embeddings": false }));
    let mut student = random_model(&config, 5);
    for block in &mut student.blocks {
        quantize(block, &config, scheme(Bits::B8, Symmetry::Symmetric, 8, ScaleType::F32));
    }
    let geometry = Geometry::new(&config, 10).unwrap();
    let tokens: Vec<u32> = (0..20).map(|i| i * 7 % 30).collect();
    let text = crate::Windows::new(&[tokens.clone(), tokens.clone()], 10, 30).unwrap();
    let exact = student.logits(&tokens, &geometry);
    let mut pool = Pool::default();
    let targets: Vec<u32> = (0..20).map(|i| i * 11 % 30).collect();
    let mut gradient = |student: &Student| {
        let loss = |logits: &mut [f32]| loss::cross_entropy(logits, &targets, None);
        student.gradient(&tokens, &geometry, Learn::WEIGHTS, &mut pool, loss)
    };
    let (value, grads) = gradient(&student);
    for to in [InputRounding::Int8PerToken, InputRounding::Int8Static] {
        student.round_inputs(to, &text).unwrap();
        let rounded = student.logits(&tokens, &geometry);
        let worst = exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst > 0.0 && worst < 0.3, "{to:?}: {worst}");
        let (near, others) = gradient(&student);
        assert!((near - value).abs() < 0.02 * value, "{to:?}: {near} for {value}");
        let steps = 8 * usize::from(to == InputRounding::Int8Static);
        assert_eq!(others.len(), grads.len() + steps);
        assert_eq!(student.input_steps().count(), 14 * steps / 8);
    }
    student.round_inputs(InputRounding::Float, &text).unwrap();
    assert_eq!(student.logits(&tokens, &geometry), exact);
}

fn quantize(block: &mut TrainBlock, config: &ModelConfig, scheme: IntScheme) {
    for (role, layer) in config.roles().zip(&mut block.layers) {
        let Layer::Float(weight) = &*layer else { continue };
        let matrix = FakeMatrix::fit("m", weight, config.shape(role), Scheme::Int(scheme), 0);
        *layer = Layer::Fake(matrix.unwrap());
    }
}

/// Step and zero point of a group of integers.
fn step_and_zero(matrix: &FakeMatrix, group: usize) -> (f64, f64) {
    let cells = matrix.cells(group);
    (cells.scale.into(), (-cells.range[0]).into())
}

/// The straight-through gradients are the true ones of the function in which each rounding adds what it added here.
#[test]
fn rounding_passes_gradients_straight_through() {
    let shape = MatrixShape::new(6, 40);
    let mut random = Random::new(8);
    for bits in [Bits::B2, Bits::B3, Bits::B4, Bits::B8] {
        for symmetry in [Symmetry::Symmetric, Symmetry::Affine] {
            let scheme = scheme(bits, symmetry, 16, ScaleType::F32);
            let mut weight = random.normals(shape.len());
            let mut matrix = FakeMatrix::fit("m", &weight, shape, Scheme::Int(scheme), 0).unwrap();
            // Some weights beyond the range.
            weight.iter_mut().for_each(|w| *w *= 1.5);
            matrix.set_weights(&weight);
            matrix.learn_rounding();
            let learn = Learn { weights: true, ..Learn::ROUNDING };
            let d: Vec<f32> = random.normals(shape.len());
            let (n_groups, max) = (3, f64::from(bits.max_code()));
            let (mut by_scale, mut by_zero) = (vec![0.0f64; 18], vec![0.0f64; 18]);
            let (mut by_weight, mut by_rounding) = (vec![0.0f64; 240], vec![0.0f64; 240]);
            let params = matrix.clone();
            for i in 0..shape.len() {
                let group = i / 40 * n_groups + i % 40 / 16;
                let (s, z) = step_and_zero(&params, group);
                let w = f64::from(weight[i]);
                // What rounding added, frozen.
                let added = (w / s).round_ties_even() - w / s;
                let surrogate = |w: f64, v: f64, s: f64, z: f64| {
                    s * ((w / s + v + added + z).clamp(0.0, max) - z)
                };
                let slope = |f: &dyn Fn(f64) -> f64| (f(1e-6) - f(-1e-6)) / 2e-6;
                let di = f64::from(d[i]);
                by_weight[i] = di * slope(&|e| surrogate(w + e, 0.0, s, z));
                by_rounding[i] = di * slope(&|e| surrogate(w, e, s, z));
                by_scale[group] += di * slope(&|e| surrogate(w, 0.0, s + e, z));
                by_zero[group] += di * slope(&|e| surrogate(w, 0.0, s, z + e));
            }
            // A weight whose rounded value lies on the border of the range has two slopes; the mean is neither.
            let close = |got: &[f32], expected: &[f64], border: &dyn Fn(usize) -> bool| {
                for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
                    let error = (f64::from(*got) - expected).abs();
                    assert!(border(i) || error < 1e-3, "{bits:?} {i}: {got} for {expected}");
                }
            };
            let border = |i: usize| {
                let (s, z) = step_and_zero(&params, i / 40 * n_groups + i % 40 / 16);
                let code = (f64::from(weight[i]) / s).round_ties_even() + z;
                code == 0.0 || code == max
            };
            let has_border = |group: usize| {
                (0..240).any(|i| i / 40 * n_groups + i % 40 / 16 == group && border(i))
            };
            let mut grads = Vec::new();
            matrix.backward(d.clone(), learn, &mut grads);
            close(&grads[0], &by_rounding, &border);
            close(&grads[1], &by_scale, &has_border);
            if symmetry == Symmetry::Affine {
                close(&grads[2], &by_zero, &has_border);
            }
            let mut grads = Vec::new();
            matrix.clone().without_rounding().backward(d, Learn::WEIGHTS, &mut grads);
            close(&grads[0], &by_weight, &border);
        }
    }
}

/// Grids of every kind, with the groups of a row of 512.
fn schemes() -> Vec<Scheme> {
    let mut schemes = Vec::new();
    for bits in [Bits::B2, Bits::B3, Bits::B4, Bits::B5, Bits::B6, Bits::B8] {
        for symmetry in [Symmetry::Symmetric, Symmetry::Affine] {
            let scheme = scheme(bits, symmetry, 96, ScaleType::F16);
            let tensor = IntScheme { granularity: Granularity::Tensor, ..scheme };
            let channel = IntScheme { granularity: Granularity::Channel, ..scheme };
            schemes.extend([scheme, tensor, channel].map(Scheme::Int));
        }
        schemes.push(Scheme::Offset(OffsetScheme::new(bits, 64, ScaleType::F16)));
    }
    let blocks = [
        BlockType::Q4_0,
        BlockType::Q4_1,
        BlockType::Q5_0,
        BlockType::Q5_1,
        BlockType::Q8_0,
        BlockType::Q2K,
        BlockType::Q3K,
        BlockType::Q4K,
        BlockType::Q5K,
        BlockType::Q6K,
        BlockType::Iq4Nl,
        BlockType::Iq4Xs,
        BlockType::Mxfp4,
    ];
    schemes.extend(blocks.map(Scheme::Block));
    for codebook in Codebook::ALL {
        let scheme = CodebookScheme::new(codebook, 64, false, ScaleType::BF16);
        schemes.push(Scheme::Codebook(scheme));
    }
    schemes.extend([Float4::Mxfp4, Float4::Nvfp4].map(Scheme::Float4));
    schemes
}

/// What a file would hold decodes to what is multiplied, whatever is learned.
#[test]
fn stored_values_are_the_trained_ones() {
    let shape = MatrixShape::new(5, 512);
    let mut random = Random::new(11);
    for scheme in schemes() {
        let weight = random.normals(shape.len());
        let mut matrix = FakeMatrix::fit("m", &weight, shape, scheme, 0).unwrap();
        for round in 0..3 {
            let stored = matrix.quantized().unwrap();
            assert_eq!(stored.scheme(), scheme);
            let values = stored.dequantize();
            // A clipped −0 and +0 are the same value.
            for (i, (a, b)) in values.iter().zip(matrix.rounded()).enumerate() {
                let same = (a + 0.0).to_bits() == (b + 0.0).to_bits();
                assert!(same, "{scheme} after {round} changes: {a} for {b} at {i}");
            }
            // A fresh start from the file gives the file again, and values near to the weights.
            let again = FakeMatrix::start("m", &weight, &stored, 0).unwrap();
            assert_eq!(again.quantized().unwrap(), stored, "{scheme}");
            let mut frozen = again;
            frozen.freeze_codes();
            assert_eq!(frozen.quantized().unwrap(), stored, "{scheme}");
            let mut params = Vec::new();
            matrix.learned(Learn::WEIGHTS, &mut params);
            for param in params {
                let by = param.unit * 0.3;
                param.values.iter_mut().for_each(|x| *x += by * random.normal() as f32);
                let [low, high] = param.range;
                param.values.iter_mut().for_each(|x| *x = x.clamp(low, high));
            }
        }
    }
}

/// A weight starts within the cell of its code, and nearer to its value than the code's value is.
#[test]
fn weights_start_near_their_values() {
    let shape = MatrixShape::new(3, 512);
    let mut random = Random::new(12);
    for scheme in schemes() {
        let weight = random.normals(shape.len());
        let other: Vec<f32> = weight.iter().map(|w| w + 0.2 * random.normal() as f32).collect();
        let stored = FakeMatrix::fit("m", &other, shape, scheme, 0).unwrap().quantized().unwrap();
        let start = FakeMatrix::start("m", &weight, &stored, 0).unwrap();
        let distance = |a: &[f32]| -> f64 {
            a.iter().zip(&weight).map(|(a, w)| f64::from((a - w).abs())).sum()
        };
        let (own, rounded) = (distance(start.weights()), distance(&stored.dequantize()));
        assert!(own < rounded, "{scheme}: {own} against {rounded}");
    }
}

/// Derivatives by all that steps are made of, under fixed codes, are differences of values.
#[test]
fn steps_of_every_grid_have_true_derivatives() {
    let shape = MatrixShape::new(4, 512);
    let mut random = Random::new(13);
    for scheme in schemes() {
        let weight = random.normals(shape.len());
        let mut matrix = FakeMatrix::fit("m", &weight, shape, scheme, 0).unwrap();
        matrix.freeze_codes();
        let d = random.normals(shape.len());
        let learn = Learn { zero_points: true, ..Learn::SCALES };
        let mut grads = Vec::new();
        matrix.backward(d.clone(), learn, &mut grads);
        let n = {
            let mut params = Vec::new();
            matrix.learned(learn, &mut params);
            params.len()
        };
        assert_eq!(grads.len(), n, "{scheme}");
        for (i, grad) in grads.iter().enumerate() {
            // Storage rounds what is learned: a change by a whole multiple of its steps is a change by itself.
            let mut value = |by: f32| -> (f64, f32, String) {
                let mut params = Vec::new();
                matrix.learned(learn, &mut params);
                let param = &mut params[i];
                let (name, whole) = (param.name.clone(), param.name.ends_with("codes"));
                let before = param.values.to_vec();
                let mut moved = 0.0;
                for (x, g) in param.values.iter_mut().zip(grad) {
                    let to = if whole { *x + (by * 8.0) } else { *x * (1.0 + by) };
                    let to = to.clamp(param.range[0], param.range[1]);
                    moved += (to - *x) * g;
                    *x = to;
                }
                let sum = matrix.rounded().iter().zip(&d).map(|(y, d)| f64::from(y * d)).sum();
                let mut params = Vec::new();
                matrix.learned(learn, &mut params);
                params[i].values.copy_from_slice(&before);
                (sum, moved, name)
            };
            let (before, ..) = value(0.0);
            let (after, moved, name) = value(0.125);
            let error = (after - before - f64::from(moved)).abs();
            // The storage of 8-bit floats has steps of an eighth.
            let bound = 2e-2 * f64::from(moved.abs()) + 0.3;
            assert!(
                error < bound
                    || name.ends_with("scales")
                        && matches!(scheme.plain_layout(), Scheme::Float4(_)),
                "{scheme} {name}: moved {moved}, value by {}",
                after - before
            );
        }
    }
}

/// What cannot be trained says so.
#[test]
fn grids_without_steps_are_refused() {
    let shape = MatrixShape::new(2, 96);
    let weight = Random::new(1).normals(shape.len());
    for scheme in [
        Scheme::LlmInt8,
        Scheme::Block(BlockType::Tq2_0),
        Scheme::Block(BlockType::Q4K),
        Scheme::Codebook(CodebookScheme::new(Codebook::Nf4, 64, false, ScaleType::F32)),
        Scheme::Codebook(CodebookScheme::new(Codebook::Nf4, 32, true, ScaleType::F32)),
    ] {
        let error = FakeMatrix::fit("layer", &weight, shape, scheme, 0).unwrap_err();
        assert!(matches!(&error, QatError::Grid { module, .. } if module == "layer"), "{error}");
    }
}

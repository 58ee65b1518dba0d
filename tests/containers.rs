//! The demo model into every container, and from container to container, without a value that changes.

use std::path::{Path, PathBuf};

use fewbit::{
    checkpoint::{
        Awq, BitsAndBytes, Checkpoint, CompressedTensors, Container, Dtype, FolderWriter, Fp8,
        Gptq, GptqVersion, IntLayout, Mlx, Onnx, TensorSpec, Weight,
        gguf::Gguf,
        gguf_model::{FileType, GgufContainer, Hparams, Mix},
    },
    format::{
        Bits, BlockType, Codebook, CodebookScheme, Float4, Float8, Float8Scheme, Granularity,
        IntScheme, OffsetScheme, Plan, Quantized, ScaleTile, ScaleType, Scheme, Symmetry,
    },
    gptq::GptqSpec,
    model::{Model, ModelConfig},
    pipeline::{
        Calibration, Conversion, ImportanceSource, Job, Method, PipelineError, Report, Silent,
        importance_matrix, importance_of_matrix, measure_importance,
    },
};

/// The demo model in a folder, and the folder for everything else.
struct Bench {
    folder: tempfile::TempDir,
    model: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("demo");
        std::fs::create_dir(&model).unwrap();
        fewbit_demo::write_model(&model).unwrap();
        Self { folder, model }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn rounded(&self, name: &str, scheme: Scheme, container: Box<dyn Container>) -> PathBuf {
        let out = self.path(name);
        let mut job = Job::new(&self.model, &out, Plan::uniform(scheme), Gptq::default());
        job.container = container;
        run(job).unwrap_or_else(|error| panic!("{name}: {error}"));
        out
    }

    fn convert(
        &self,
        from: &Path,
        name: &str,
        container: Option<Box<dyn Container>>,
    ) -> Result<PathBuf, PipelineError> {
        let out = self.path(name);
        conversion(from, &out, container).prepare(&mut Silent)?.run(&mut Silent)?;
        Ok(out)
    }
}

fn run(job: Job) -> Result<Report, PipelineError> {
    job.prepare(&mut Silent)?.run(&mut Silent)
}

fn conversion(from: &Path, out: &Path, container: Option<Box<dyn Container>>) -> Conversion {
    Conversion {
        model: from.into(),
        out: out.into(),
        container,
        anew: None,
        floats: None,
        widen: false,
        part_bytes: FolderWriter::SHARD_BYTES,
    }
}

fn int(bits: Bits, symmetry: Symmetry, group: u32) -> Scheme {
    Scheme::Int(IntScheme {
        bits,
        symmetry,
        granularity: Granularity::group(group),
        scale_type: ScaleType::F16,
    })
}

/// The embedding of the demo model.
const EMBEDDING: &str = "model.embed_tokens";

/// Values of every linear layer.
fn values(path: &Path) -> Vec<Vec<f32>> {
    let checkpoint = Checkpoint::open(path).unwrap();
    let config = ModelConfig::of(&checkpoint).unwrap();
    let mut all = Vec::new();
    for block in 0..config.n_layers {
        for role in config.roles() {
            all.push(config.weight_f32(&checkpoint, block, role).unwrap());
        }
    }
    all
}

fn offset(bits: Bits, group: u32) -> Scheme {
    Scheme::Offset(OffsetScheme::new(bits, group, ScaleType::BF16))
}

/// Logits of a few tokens.
fn logits(path: &Path) -> Vec<f32> {
    let model = Model::load(&Checkpoint::open(path).unwrap()).unwrap();
    model.logits(&[0, 10, 200, 300, 17, 42]).unwrap().iter().copied().collect()
}

#[test]
fn every_grid_goes_into_its_containers() {
    let bench = Bench::new();
    let gguf = || Box::new(GgufContainer::default()) as Box<dyn Container>;
    let ct = || Box::new(CompressedTensors::default()) as Box<dyn Container>;
    let bnb = || Box::new(BitsAndBytes) as Box<dyn Container>;
    let codebook = |codebook, double| {
        let value_type = ScaleType::BF16;
        Scheme::Codebook(CodebookScheme {
            codebook,
            block_size: 64.try_into().unwrap(),
            double_quant: double,
            value_type,
        })
    };
    let fp8 = |tile| {
        Scheme::Float8(Float8Scheme { element: Float8::E4M3, tile, scale_type: ScaleType::BF16 })
    };
    let nested = Some(256.try_into().unwrap());
    let mut cases: Vec<(&str, Scheme, Box<dyn Container>)> = vec![
        ("awq", int(Bits::B4, Symmetry::Affine, 64), Box::new(Awq)),
        ("nf4", codebook(Codebook::Nf4, None), bnb()),
        ("nf4 double", codebook(Codebook::Nf4, nested), bnb()),
        ("fp4", codebook(Codebook::Fp4, None), bnb()),
        ("llm int8", Scheme::LlmInt8, bnb()),
        ("fp8", fp8(ScaleTile::Channel), ct()),
        ("ct mxfp4", Scheme::Float4(Float4::Mxfp4), ct()),
        ("ct nvfp4", Scheme::Float4(Float4::Nvfp4), ct()),
        ("mlx", offset(Bits::B4, 64), Box::new(Mlx)),
        ("mlx 3 bits", offset(Bits::B3, 32), Box::new(Mlx)),
        ("mlx mxfp4", Scheme::Float4(Float4::Mxfp4), Box::new(Mlx)),
    ];
    for block_type in BlockType::ALL {
        // Ternary and one-bit blocks are for models trained to them.
        if block_type.bits_per_weight() > 2.5 {
            cases.push((block_type.name(), Scheme::Block(block_type), gguf()));
        }
    }
    let float = logits(&bench.model);
    for (name, scheme, container) in cases {
        let ending = if matches!(scheme, Scheme::Block(_)) { ".gguf" } else { "" };
        let out = bench.rounded(&(name.replace(' ', "-") + ending), scheme, container);
        // The job has compared every value; here the runtime has to make sense of it.
        let rounded = logits(&out);
        let error: f32 = rounded.iter().zip(&float).map(|(a, b)| (a - b).powi(2)).sum();
        let norm: f32 = float.iter().map(|a| a * a).sum();
        assert!((error / norm).sqrt() < 0.5, "{name}: {}", (error / norm).sqrt());
    }
}

#[test]
fn gptq_rounds_to_blocks_and_tables() {
    let bench = Bench::new();
    let text: Vec<u32> = (0..6000u32).map(|i| i * 7919 % 1000).collect();
    let calibration = Calibration::from_documents([text], 100, 60).unwrap();
    let types = [
        BlockType::Q2K,
        BlockType::Q3K,
        BlockType::Q4K,
        BlockType::Q6K,
        BlockType::Iq4Xs,
        BlockType::Iq4Nl,
        BlockType::Mxfp4,
        BlockType::Q4_0,
        BlockType::Q5_1,
        BlockType::Q8_0,
    ];
    let mut cases: Vec<(String, Scheme, Box<dyn Container>)> = vec![];
    for block_type in types {
        let gguf = Box::new(GgufContainer::default());
        cases.push((format!("{block_type}.gguf"), Scheme::Block(block_type), gguf));
    }
    for codebook in Codebook::ALL {
        let scheme = CodebookScheme::new(codebook, 64, false, ScaleType::BF16);
        let (name, bnb) = (codebook.name().to_owned(), Box::new(BitsAndBytes));
        cases.push((name, Scheme::Codebook(scheme), bnb));
    }
    for float4 in Float4::ALL {
        let (name, ct) = (float4.name().to_owned(), Box::new(CompressedTensors::default()));
        cases.push((name, Scheme::Float4(float4), ct));
    }
    for (name, scheme, container) in cases {
        let out = bench.path(&name);
        let report = run(Job {
            method: Method::gptq(GptqSpec { refine_passes: 1, ..GptqSpec::default() }, 0.0),
            calibration: Some(calibration.clone()),
            container,
            ..Job::new(&bench.model, &out, Plan::uniform(scheme), Gptq::default())
        })
        .unwrap_or_else(|error| panic!("{name}: {error}"));
        let (mut plain, mut solved) = (0.0, 0.0);
        for m in &report.matrices {
            let (before, after) = (m.output_error_plain.unwrap(), m.output_error.unwrap());
            assert!(after <= before, "{m:?}");
            (plain, solved) = (plain + before, solved + after);
        }
        assert!(solved < 0.85 * plain, "{name}: {solved} of {plain}");
        // The file holds this grid, and the runtime makes sense of it.
        let model = Checkpoint::open(&out).unwrap();
        let Weight::Quant(matrix) = model.weight("model.layers.1.mlp.down_proj").unwrap() else {
            panic!("{name}: not quantized");
        };
        assert_eq!(matrix.scheme(), scheme);
        assert!(logits(&out).iter().all(|v| v.is_finite()));
    }
    // Ternary blocks have no grid that a solver could use.
    let plan = Plan::uniform(Scheme::Block(BlockType::Tq2_0));
    let job = Job {
        method: Method::gptq(GptqSpec::default(), 0.0),
        calibration: Some(calibration),
        ..Job::new(&bench.model, bench.path("tq2_0.gguf"), plan, GgufContainer::default())
    };
    assert!(run(job).unwrap_err().to_string().contains("tq2_0"));
}

#[test]
fn codes_travel_through_all_containers_that_share_the_grid() {
    let bench = Bench::new();
    let gptq = |version| Some(Box::new(Gptq { version }) as Box<dyn Container>);
    let start = bench.rounded(
        "start",
        int(Bits::B4, Symmetry::Symmetric, 128),
        gptq(GptqVersion::V1).unwrap(),
    );
    let expected = values(&start);
    let route: [(&str, Option<Box<dyn Container>>); 8] = [
        ("a-awq", Some(Box::new(Awq))),
        ("b-gptq", gptq(GptqVersion::V2)),
        ("c-compressed", Some(Box::new(CompressedTensors::default()))),
        (
            "d-bytes",
            Some(Box::new(CompressedTensors {
                integers: IntLayout::Bytes,
                ..CompressedTensors::default()
            })),
        ),
        ("e-mlx", Some(Box::new(Mlx))),
        ("f.gguf", Some(Box::new(GgufContainer::default()))),
        ("g.onnx", Some(Box::new(Onnx))),
        ("h-gptq", gptq(GptqVersion::V1)),
    ];
    let mut from = start;
    for (name, container) in route {
        from = bench.convert(&from, name, container).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(values(&from) == expected, "{name}");
    }
    let float = bench.convert(&from, "float", None).unwrap();
    assert!(values(&float) == expected, "float");
    assert!(Checkpoint::open(&float).unwrap().container().is_none());
}

#[test]
fn floats_of_few_bits_travel_too() {
    let bench = Bench::new();
    let ct = || Box::new(CompressedTensors::default()) as Box<dyn Container>;
    let fp8 = Scheme::Float8(Float8Scheme {
        element: Float8::E4M3,
        tile: ScaleTile::block(32, 64),
        scale_type: ScaleType::F32,
    });
    let routes: [(&str, Scheme, Box<dyn Container>, &str); 2] = [
        ("mxfp4", Scheme::Float4(Float4::Mxfp4), Box::new(GgufContainer::default()), "mxfp4.gguf"),
        ("fp8", fp8, Box::new(Fp8), "fp8-blocks"),
    ];
    for (name, scheme, container, there) in routes {
        let start = bench.rounded(name, scheme, ct());
        let expected = values(&start);
        let there = bench.convert(&start, there, Some(container)).unwrap();
        assert!(values(&there) == expected, "{name}");
        let back = bench.convert(&there, &format!("{name}-back"), Some(ct())).unwrap();
        assert!(values(&back) == expected, "{name} and back");
        let grid = |path: &Path| match Checkpoint::open(path)
            .unwrap()
            .weight("model.layers.0.mlp.up_proj")
            .unwrap()
        {
            Weight::Quant(matrix) => matrix.scheme(),
            Weight::Float { .. } => Scheme::Float,
        };
        assert_eq!(grid(&back), scheme, "{name}");
    }
}

#[test]
fn what_would_lose_values_is_refused_before_anything_is_written() {
    let bench = Bench::new();
    let gguf = || Some(Box::new(GgufContainer::default()) as Box<dyn Container>);
    let start =
        bench.rounded("start", int(Bits::B4, Symmetry::Affine, 128), Box::new(Gptq::default()));
    let error = bench.convert(&start, "refused.gguf", gguf()).unwrap_err();
    assert!(matches!(error, PipelineError::NotLossless { .. }), "{error}");
    assert!(error.to_string().contains("model.layers.0.mlp.down_proj"), "{error}");
    assert!(!bench.path("refused.gguf").exists());

    // Wider codes hold the values, another grid does not.
    let out = bench.path("wide.gguf");
    let wide = Conversion { widen: true, ..conversion(&start, &out, gguf()) };
    wide.prepare(&mut Silent).unwrap().run(&mut Silent).unwrap();
    assert!(values(&out) == values(&start));
    let out = bench.path("anew.gguf");
    let anew = Scheme::Block(BlockType::Q4K);
    let anew = Conversion { anew: Some(anew), ..conversion(&start, &out, gguf()) };
    let prepared = anew.prepare(&mut Silent).unwrap();
    assert!(prepared.matrices().iter().all(|m| m.anew));
    prepared.run(&mut Silent).unwrap();
    assert!(values(&out) != values(&start));

    let gptq = || Some(Box::new(Gptq::default()) as Box<dyn Container>);
    let error = bench.convert(&bench.model, "nothing", gptq()).unwrap_err();
    assert!(matches!(error, PipelineError::NothingToConvert { .. }), "{error}");
    let error = bench.convert(&bench.model, "float", gguf()).unwrap_err();
    assert!(error.to_string().contains(".gguf"), "{error}");
    // In a GGUF file a float model is at home.
    let out = bench.convert(&bench.model, "float.gguf", gguf()).unwrap();
    assert!(values(&out) == values(&bench.model));
}

#[test]
fn a_standard_mix_has_embedding_and_head_and_heeds_importance() {
    let bench = Bench::new();
    let model = Checkpoint::open(&bench.model).unwrap();
    let text: Vec<u32> = (0..2000u32).map(|i| i * 7919 % 1000).collect();
    let calibration = Calibration::from_documents([text], 100, 20).unwrap();
    let importance = measure_importance(&model, &calibration, &mut Silent).unwrap();
    assert_eq!(importance.len(), 28);

    // Through a file of llama.cpp and back; its sums are f32.
    let matrix = importance_matrix(&importance, &model, &calibration, "numbers").unwrap();
    let file = bench.path("imatrix.gguf");
    matrix.write_gguf(&file).unwrap();
    let read = fewbit::checkpoint::gguf::ImportanceMatrix::read(&file).unwrap();
    let back = importance_of_matrix(&read, &model).unwrap();
    for (module, values) in &importance {
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * a.abs();
        assert!(values.iter().zip(&back[module]).all(close), "{module}");
    }

    let hparams = Hparams::of_config(model.config()).unwrap();
    let plan = Mix::new(FileType::Q4KM, &hparams, true).plan(&hparams.names(), model.tensors());
    let job = |name: &str, importance| {
        let out = bench.path(name);
        let container = GgufContainer { file_type: Some(FileType::Q4KM), ..Default::default() };
        (Job { importance, ..Job::new(&bench.model, &out, plan.clone(), container) }, out)
    };
    let (plain, plain_out) = job("plain.gguf", None);
    let (weighted, weighted_out) = job("weighted.gguf", Some(ImportanceSource::Given(importance)));
    run(plain).unwrap();
    let report = run(weighted).unwrap();
    assert!(values(&plain_out) != values(&weighted_out), "importance changes codes");
    assert!(report.matrices.iter().any(|m| m.module == EMBEDDING && m.grid == "q6_k"));
    let written = Checkpoint::open(&weighted_out).unwrap();
    assert!(matches!(written.weight(EMBEDDING).unwrap(), Weight::Quant(_)));
    assert!(logits(&weighted_out).iter().all(|v| v.is_finite()));
    let plain_method = Method::nearest();
    assert_eq!(plain_method.name(), report.method);
}

/// The values of a module, whatever it lies on.
fn weight(path: &Path, module: &str) -> Vec<f32> {
    match Checkpoint::open(path).unwrap().weight(module).unwrap() {
        Weight::Quant(matrix) => matrix.dequantize(),
        Weight::Float { data, .. } => data,
    }
}

#[test]
fn floats_are_rounded_on_the_way_as_the_job_rounds_them() {
    let bench = Bench::new();
    let gguf = || Some(Box::new(GgufContainer::default()) as Box<dyn Container>);
    for block_type in [BlockType::Q8_0, BlockType::Q4K] {
        let scheme = Scheme::Block(block_type);
        let out = bench.path(&format!("{block_type}.gguf"));
        let floats = Conversion { floats: Some(scheme), ..conversion(&bench.model, &out, gguf()) };
        floats.prepare(&mut Silent).unwrap().run(&mut Silent).unwrap();
        let job = bench.rounded(&format!("job-{block_type}.gguf"), scheme, gguf().unwrap());
        assert!(values(&out) == values(&job), "{block_type}");
        // Unlike the job's, the embedding is rounded as well.
        let embedding = weight(&bench.model, EMBEDDING);
        let shape = Checkpoint::open(&out).unwrap().weight(EMBEDDING).unwrap().shape();
        let expected = Quantized::round_to_nearest(&embedding, shape, scheme).unwrap();
        assert!(weight(&out, EMBEDDING) == expected.dequantize(), "{block_type}");

        // From file to file the blocks are copied, and to floats they widen.
        let copy = bench.convert(&out, &format!("{block_type}-copy.gguf"), gguf()).unwrap();
        let tensors = |path: &Path| {
            let file = Gguf::open(path).unwrap();
            let names: Vec<String> = file.tensors().map(|t| t.name.clone()).collect();
            names.iter().map(|name| file.read(name).unwrap().into_owned()).collect::<Vec<_>>()
        };
        assert!(tensors(&copy) == tensors(&out), "{block_type}");
        let wide = bench.convert(&out, &format!("{block_type}-float"), None).unwrap();
        assert!(values(&wide) == values(&out), "{block_type}");
    }
    // Containers for linear layers alone keep the embedding.
    let out = bench.path("gptq");
    let floats = Some(int(Bits::B4, Symmetry::Symmetric, 128));
    let gptq = Some(Box::new(Gptq::default()) as Box<dyn Container>);
    let floats = Conversion { floats, ..conversion(&bench.model, &out, gptq) };
    floats.prepare(&mut Silent).unwrap().run(&mut Silent).unwrap();
    assert!(weight(&out, EMBEDDING) == weight(&bench.model, EMBEDDING));
    assert!(values(&out) != values(&bench.model));
}

#[test]
fn large_tensors_go_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    // Two pieces and a bit.
    let [rows, columns] = [4099, 2050];
    let bytes: Vec<u8> = (0..2 * rows * columns).map(|i| (i * 31 % 127) as u8).collect();
    let specs = vec![TensorSpec::new("large.weight", Dtype::BF16, [rows, columns])];
    let mut writer = FolderWriter::create(&from, specs, FolderWriter::SHARD_BYTES).unwrap();
    writer.write("large.weight", &bytes).unwrap();
    writer.finish().unwrap();
    conversion(&from, &to, None).prepare(&mut Silent).unwrap().run(&mut Silent).unwrap();
    assert!(*Checkpoint::open(&to).unwrap().read("large.weight").unwrap() == *bytes);
}

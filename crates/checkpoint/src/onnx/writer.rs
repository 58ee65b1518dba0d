//! Writing an ONNX file: everything but the data of the initialisers follows from their shapes, so that these come in any order and in pieces.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use fewbit_format::{Granularity, Scheme};
use serde_json::Value;

use super::{
    Onnx,
    file::{CONFIG, DOMAIN, OPERATOR, type_id},
};
use crate::{
    CheckpointError, Container, ModelOutput, ModelWriter, ModuleScheme, TensorSpec,
    atomic::{rename_new, reserve, sync_folder, write_error},
    config::CONFIG_KEYS,
    error::io,
    writer::Partial,
};

/// Protocol Buffers address bytes with 31 bits.
const MAX_BYTES: u64 = i32::MAX as u64;

/// A file without the data of its initialisers.
#[derive(Debug)]
pub(super) struct Layout {
    /// What stands before the data of each initialiser, with the length of that.
    initializers: Vec<(String, Vec<u8>, u64)>,
    bytes: u64,
}

/// Lays out a file.
pub(super) fn lay_out(onnx: &Onnx, output: &ModelOutput<'_>) -> Result<Layout, CheckpointError> {
    let mut head = Message::default();
    // Version 8 of the format came with ONNX 1.10.
    head.number(1, 8).text(2, "fewbit");
    for (domain, version) in [("", 17), (DOMAIN, 1)] {
        let mut set = Message::default();
        set.text(1, domain).number(2, version);
        head.message(8, &set);
    }
    let mut config = output.original.config().clone();
    for key in CONFIG_KEYS {
        config.remove(key);
    }
    let mut property = Message::default();
    property.text(1, CONFIG).text(2, &Value::Object(config).to_string());
    head.message(14, &property);

    let mut graph = Message::default();
    for module in output.plan.quantized() {
        graph.message(1, &node(onnx, module));
    }
    graph.text(2, "weights");
    for module in output.plan.quantized() {
        let scales = onnx.tensors(&module.module, module.shape, &module.scheme, false);
        let element = scales.get(1).and_then(|spec| type_id(spec.dtype)).unwrap_or(1);
        let value = |part: &str, features: usize| {
            value_info(&format!("{}.{part}", module.module), element, features)
        };
        graph.message(11, &value("input", module.shape.in_features));
        graph.message(12, &value("output", module.shape.out_features));
    }
    let mut initializers = Vec::new();
    let mut length = graph.0.len() as u64;
    for spec in output.specs {
        let head = initializer(spec)?;
        length = length.saturating_add(head.len() as u64).saturating_add(spec.bytes());
        initializers.push((spec.name.clone(), head, spec.bytes()));
    }
    head.key(7, 2).varint(length);
    let bytes = length.saturating_add(head.0.len() as u64);
    if bytes > MAX_BYTES {
        return Err(CheckpointError::OnnxSize { bytes, limit: MAX_BYTES });
    }
    head.0.extend(graph.0);
    match initializers.first_mut() {
        Some((_, first, _)) => {
            head.0.append(first);
            *first = head.0;
        }
        None => initializers.push((String::new(), head.0, 0)),
    }
    Ok(Layout { initializers, bytes })
}

fn node(onnx: &Onnx, module: &ModuleScheme) -> Message {
    let ModuleScheme { module, shape, scheme, .. } = module;
    let mut node = Message::default();
    node.text(1, &format!("{module}.input"));
    for spec in onnx.tensors(module, *shape, scheme, false) {
        node.text(1, &spec.name);
    }
    node.text(2, &format!("{module}.output")).text(3, module).text(4, OPERATOR);
    if let Scheme::Int(scheme) = scheme
        && let Granularity::Group(size) = scheme.granularity
    {
        for (name, value) in [
            ("K", shape.in_features as u64),
            ("N", shape.out_features as u64),
            ("bits", scheme.bits.get().into()),
            ("block_size", size.get().into()),
        ] {
            let mut attribute = Message::default();
            // Type 2 is an integer.
            attribute.text(1, name).number(3, value).number(20, 2);
            node.message(5, &attribute);
        }
    }
    node.text(7, DOMAIN);
    node
}

/// Rows of `features` numbers.
fn value_info(name: &str, element: u64, features: usize) -> Message {
    let (mut rows, mut columns) = (Message::default(), Message::default());
    rows.text(2, "tokens");
    columns.number(1, features as u64);
    let (mut shape, mut tensor, mut kind) =
        (Message::default(), Message::default(), Message::default());
    shape.message(1, &rows).message(1, &columns);
    tensor.number(1, element).message(2, &shape);
    kind.message(1, &tensor);
    let mut info = Message::default();
    info.text(1, name).message(2, &kind);
    info
}

/// An initialiser up to its data.
fn initializer(spec: &TensorSpec) -> Result<Vec<u8>, CheckpointError> {
    let Some(element) = type_id(spec.dtype) else {
        let (tensor, got, expected) = (spec.name.clone(), spec.dtype, "a type of ONNX");
        return Err(CheckpointError::Dtype { tensor, got, expected });
    };
    let mut tensor = Message::default();
    spec.shape.iter().for_each(|&d| {
        tensor.number(1, d as u64);
    });
    tensor.number(2, element).text(8, &spec.name).key(9, 2).varint(spec.bytes());
    let mut head = Message::default();
    head.key(5, 2).varint((tensor.0.len() as u64).saturating_add(spec.bytes()));
    head.0.extend(tensor.0);
    Ok(head.0)
}

/// The bytes of a message.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) -> &mut Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    fn key(&mut self, field: u64, kind: u64) -> &mut Self {
        self.varint(field << 3 | kind)
    }

    fn number(&mut self, field: u64, value: u64) -> &mut Self {
        self.key(field, 0).varint(value)
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) -> &mut Self {
        self.key(field, 2).varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    fn text(&mut self, field: u64, text: &str) -> &mut Self {
        self.bytes(field, text.as_bytes())
    }

    fn message(&mut self, field: u64, message: &Self) -> &mut Self {
        self.bytes(field, &message.0)
    }
}

/// Writes an ONNX file under a temporary name until all is there.
#[derive(Debug)]
pub(super) struct OnnxWriter {
    out: PathBuf,
    // Removes the folder of `path` when dropped.
    _partial: Partial,
    path: PathBuf,
    file: File,
    places: BTreeMap<String, Place>,
}

#[derive(Debug)]
struct Place {
    begin: u64,
    bytes: u64,
    written: u64,
}

impl OnnxWriter {
    pub(super) fn create(out: &Path, layout: Layout) -> Result<Self, CheckpointError> {
        let partial = Partial::create(out)?;
        let path = partial.path.join(out.file_name().unwrap_or_default());
        let mut places = BTreeMap::new();
        let create = || {
            let mut file = File::create_new(&path)?;
            reserve(&file, layout.bytes)?;
            let mut at = 0;
            for (name, head, bytes) in layout.initializers {
                file.seek(SeekFrom::Start(at))?;
                file.write_all(&head)?;
                let begin = at + head.len() as u64;
                at = begin + bytes;
                places.insert(name, Place { begin, bytes, written: 0 });
            }
            Ok(file)
        };
        let file = create().map_err(|error| write_error(error, &path, layout.bytes))?;
        // Of a file without initialisers.
        places.remove("");
        Ok(Self { out: out.to_owned(), _partial: partial, path, file, places })
    }
}

impl ModelWriter for OnnxWriter {
    fn write(&mut self, tensor: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        if let Some(place) = self.places.get(tensor)
            && place.bytes != bytes.len() as u64
        {
            let (tensor, got) = (tensor.to_owned(), bytes.len() as u64);
            return Err(CheckpointError::TensorLength { tensor, got, expected: place.bytes });
        }
        self.write_part(tensor, 0, bytes)
    }

    fn row_unit(&self, _tensor: &str) -> Option<usize> {
        Some(1)
    }

    fn write_part(
        &mut self,
        tensor: &str,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), CheckpointError> {
        let unexpected =
            |problem| CheckpointError::Unexpected { tensor: tensor.to_owned(), problem };
        let Some(place) = self.places.get_mut(tensor) else {
            return Err(unexpected("was not announced when the file was created"));
        };
        if offset < place.written {
            return Err(unexpected("is written a second time"));
        }
        if offset > place.written {
            return Err(unexpected(
                "is written with a gap: its pieces must come one after another",
            ));
        }
        let got = offset.saturating_add(bytes.len() as u64);
        if got > place.bytes {
            let (tensor, expected) = (tensor.to_owned(), place.bytes);
            return Err(CheckpointError::TensorLength { tensor, got, expected });
        }
        self.file
            .seek(SeekFrom::Start(place.begin + offset))
            .and_then(|_| self.file.write_all(bytes))
            .map_err(|error| write_error(error, &self.path, place.bytes))?;
        place.written = got;
        Ok(())
    }

    fn complete(&mut self) -> Result<&Path, CheckpointError> {
        let mut unwritten = self.places.iter().filter(|(_, place)| place.written < place.bytes);
        if let Some((first, _)) = unwritten.next() {
            let (tensor, missing) = (first.clone(), 1 + unwritten.count());
            return Err(CheckpointError::Unwritten { tensor, missing });
        }
        self.file.sync_all().map_err(io("finish writing", &self.path))?;
        Ok(&self.path)
    }

    fn finish(mut self: Box<Self>) -> Result<(), CheckpointError> {
        self.complete()?;
        rename_new(&self.path, &self.out)?;
        let parent = self.out.parent().filter(|parent| *parent != Path::new(""));
        let parent = parent.unwrap_or(Path::new("."));
        sync_folder(parent).map_err(io("finish writing", parent))
    }
}

//! Metadata: values by key, in the order of the file.

use indexmap::IndexMap;

use super::value::{Array, Value};
use crate::CheckpointError;

/// Values by key, in the order in which the file has them or they were inserted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(IndexMap<String, Value>);

impl Metadata {
    /// No values.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys and values in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of a key, of whatever type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Appends a key; a key that is there keeps its place and gets the new value. Returns the old one.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        self.0.insert(key.into(), value.into())
    }

    /// Removes a key; those after it move up.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.0.shift_remove(key)
    }

    /// The value of a key that may be absent, as `T`: an integer that can hold it whatever its width in the file, `f32`, `f64` (also of
    /// an f32), `bool`, `&str`, `&[String]`, `&[f32]`, `&Array`, or a vector of integers.
    ///
    /// # Errors
    /// If the value is of another type, or an integer is out of range.
    pub fn find<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, CheckpointError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => T::from_value(value).map(Some).ok_or_else(|| {
                let found = match value {
                    Value::Array(array) => format!("an array of {}", array.value_type()),
                    other => match other.integer() {
                        Some(number) => format!("the {} {number}", other.value_type()),
                        None => format!("a {}", other.value_type()),
                    },
                };
                CheckpointError::KeyType { key: key.to_owned(), expected: T::EXPECTED, found }
            }),
        }
    }

    /// The value of a key that must be there.
    ///
    /// # Errors
    /// If it is absent, and as [`find`](Self::find).
    pub fn require<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, CheckpointError> {
        self.find(key)?.ok_or_else(|| CheckpointError::MissingKey {
            key: key.to_owned(),
            expected: T::EXPECTED,
        })
    }

    /// An integer that fits 32 bits without sign, whatever its width in the file.
    ///
    /// # Errors
    /// If the key is absent or its value is something else.
    pub fn u32(&self, key: &str) -> Result<u32, CheckpointError> {
        self.require(key)
    }

    /// An integer that fits 64 bits without sign, whatever its width in the file.
    ///
    /// # Errors
    /// If the key is absent or its value is something else.
    pub fn u64(&self, key: &str) -> Result<u64, CheckpointError> {
        self.require(key)
    }

    /// An integer that fits 32 bits with sign, whatever its width in the file.
    ///
    /// # Errors
    /// If the key is absent or its value is something else.
    pub fn i32(&self, key: &str) -> Result<i32, CheckpointError> {
        self.require(key)
    }

    /// A 32-bit float.
    ///
    /// # Errors
    /// If the key is absent or its value is something else.
    pub fn f32(&self, key: &str) -> Result<f32, CheckpointError> {
        self.require(key)
    }

    /// A truth value.
    ///
    /// # Errors
    /// If the key is absent or its value is something else.
    pub fn bool(&self, key: &str) -> Result<bool, CheckpointError> {
        self.require(key)
    }

    /// A text.
    ///
    /// # Errors
    /// If the key is absent or its value is something else.
    pub fn text(&self, key: &str) -> Result<&str, CheckpointError> {
        self.require(key)
    }

    /// An array of texts.
    ///
    /// # Errors
    /// If the key is absent or its value is something else.
    pub fn strings(&self, key: &str) -> Result<&[String], CheckpointError> {
        self.require(key)
    }

    /// An array of 32-bit floats.
    ///
    /// # Errors
    /// If the key is absent or its value is something else.
    pub fn floats(&self, key: &str) -> Result<&[f32], CheckpointError> {
        self.require(key)
    }

    /// An array of integers that fit 64 bits with sign, whatever their width in the file.
    ///
    /// # Errors
    /// If the key is absent or its value is something else.
    pub fn integers(&self, key: &str) -> Result<Vec<i64>, CheckpointError> {
        self.require(key)
    }

    /// An array of truth values.
    ///
    /// # Errors
    /// If the key is absent or its value is something else.
    pub fn bools(&self, key: &str) -> Result<&[bool], CheckpointError> {
        self.require(key)
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self(entries.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

/// What a metadata value can be read as.
pub trait FromValue<'a>: Sized {
    /// What errors call it.
    const EXPECTED: &'static str;

    /// The value, if it is of this type.
    fn from_value(value: &'a Value) -> Option<Self>;
}

macro_rules! from_value {
    ($($type:ty, $expected:literal, $value:ident => $result:expr;)*) => { $(
        impl<'a> FromValue<'a> for $type {
            const EXPECTED: &'static str = $expected;

            fn from_value($value: &'a Value) -> Option<Self> {
                $result
            }
        }
    )* };
}

from_value! {
    u16, "an integer of 0 to 65535", value => value.integer().and_then(|v| v.try_into().ok());
    u32, "an integer of 0 to 4294967295", value => value.integer().and_then(|v| v.try_into().ok());
    u64, "an unsigned integer", value => value.integer().and_then(|v| v.try_into().ok());
    i32, "an integer of 32 bits", value => value.integer().and_then(|v| v.try_into().ok());
    i64, "an integer of 64 bits", value => value.integer().and_then(|v| v.try_into().ok());
    f32, "a f32", value => match value { Value::F32(v) => Some(*v), _ => None };
    f64, "a f32 or f64", value => match value {
        Value::F32(v) => Some((*v).into()),
        Value::F64(v) => Some(*v),
        _ => None,
    };
    bool, "a bool", value => match value { Value::Bool(v) => Some(*v), _ => None };
    &'a str, "a string", value => match value { Value::Text(v) => Some(v), _ => None };
    &'a Array, "an array", value => match value { Value::Array(v) => Some(v), _ => None };
    &'a [String], "an array of string", value => match value {
        Value::Array(Array::Text(v)) => Some(v),
        _ => None,
    };
    &'a [f32], "an array of f32", value => match value {
        Value::Array(Array::F32(v)) => Some(v),
        _ => None,
    };
    &'a [bool], "an array of bool", value => match value {
        Value::Array(Array::Bool(v)) => Some(v),
        _ => None,
    };
    Vec<i64>, "an array of integers of 64 bits", value => match value {
        Value::Array(array) => integers(array),
        _ => None,
    };
}

/// The elements of an array of integers that all fit.
fn integers(array: &Array) -> Option<Vec<i64>> {
    Some(match array {
        Array::U8(v) => v.iter().map(|&v| v.into()).collect(),
        Array::I8(v) => v.iter().map(|&v| v.into()).collect(),
        Array::U16(v) => v.iter().map(|&v| v.into()).collect(),
        Array::I16(v) => v.iter().map(|&v| v.into()).collect(),
        Array::U32(v) => v.iter().map(|&v| v.into()).collect(),
        Array::I32(v) => v.iter().map(|&v| v.into()).collect(),
        Array::I64(v) => v.clone(),
        Array::U64(v) => v.iter().map(|&v| v.try_into().ok()).collect::<Option<_>>()?,
        _ => return None,
    })
}

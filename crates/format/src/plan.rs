//! Which scheme each weight matrix of a model takes.

use alloc::{collections::BTreeMap, string::String};

use crate::Scheme;

/// A scheme per weight matrix, by module name (`model.layers.0.mlp.down_proj`).
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    default: Scheme,
    overrides: BTreeMap<String, Scheme>,
}

impl Plan {
    /// The same scheme for every matrix.
    pub fn uniform(scheme: Scheme) -> Self {
        Self { default: scheme, overrides: BTreeMap::new() }
    }

    /// Sets the scheme of one matrix.
    #[must_use]
    pub fn with(mut self, module: impl Into<String>, scheme: Scheme) -> Self {
        self.overrides.insert(module.into(), scheme);
        self
    }

    /// The scheme of a matrix.
    pub fn scheme(&self, module: &str) -> Scheme {
        self.overrides.get(module).copied().unwrap_or(self.default)
    }

    /// The scheme of every matrix that [`overrides`](Self::overrides) does not name.
    pub fn default_scheme(&self) -> Scheme {
        self.default
    }

    /// The matrices that differ from the default, by name.
    pub fn overrides(&self) -> impl Iterator<Item = (&str, Scheme)> {
        self.overrides.iter().map(|(name, scheme)| (name.as_str(), *scheme))
    }
}

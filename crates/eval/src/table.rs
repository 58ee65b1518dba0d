//! Tables of text and Markdown.

use std::fmt;

/// How the cells of a column are aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// To the left: names.
    Left,
    /// To the right: numbers.
    Right,
}

/// A table with a header, aligned columns, units and rules.
#[derive(Clone, Debug, Default)]
pub struct Table {
    columns: Vec<(String, Align, Option<String>)>,
    rows: Vec<Option<Vec<String>>>,
}

impl Table {
    /// A table without columns.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a column of names.
    #[must_use]
    pub fn left(mut self, name: impl Into<String>) -> Self {
        self.columns.push((name.into(), Align::Left, None));
        self
    }

    /// Adds a column of numbers.
    #[must_use]
    pub fn right(mut self, name: impl Into<String>) -> Self {
        self.columns.push((name.into(), Align::Right, None));
        self
    }

    /// Gives the last column a unit.
    #[must_use]
    pub fn unit(mut self, unit: impl Into<String>) -> Self {
        if let Some(column) = self.columns.last_mut() {
            column.2 = Some(unit.into());
        }
        self
    }

    /// Adds a row.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) -> &mut Self {
        self.rows.push(Some(cells.into_iter().map(Into::into).collect()));
        self
    }

    /// Adds a horizontal rule.
    pub fn rule(&mut self) -> &mut Self {
        self.rows.push(None);
        self
    }

    /// The table in Markdown.
    pub fn to_markdown(&self) -> String {
        unimplemented!()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unimplemented!()
    }
}

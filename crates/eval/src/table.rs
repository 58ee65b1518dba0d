//! Tables of text and Markdown.

use std::fmt::{self, Write as _};

/// How the cells of a column are aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

#[derive(Clone, Debug)]
struct Column {
    name: String,
    unit: String,
    align: Align,
}

#[derive(Clone, Debug)]
enum Line {
    Cells(Vec<String>),
    Rule,
}

/// A table with a header, aligned columns, units and rules. `Display` prints it as text.
///
/// ```
/// use fewbit_eval::Table;
///
/// let mut table = Table::new().left("matrix").right("KLD").unit("nats");
/// table.row(["q_proj", "0.0395"]).rule().row(["all", "0.1"]);
/// assert_eq!(
///     table.to_string(),
///     "matrix     KLD\n          nats\n──────────────\nq_proj  0.0395\n──────────────\nall        0.1\n"
/// );
/// assert!(table.to_markdown().starts_with("| matrix | KLD (nats) |\n| :----- | ---------: |\n"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Table {
    columns: Vec<Column>,
    lines: Vec<Line>,
}

impl Table {
    /// A table without columns; [`left`](Self::left), [`right`](Self::right) and [`unit`](Self::unit) add them.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a column aligned to the left: names.
    #[must_use]
    pub fn left(self, name: impl Into<String>) -> Self {
        self.column(name.into(), Align::Left)
    }

    /// Adds a column aligned to the right: numbers.
    #[must_use]
    pub fn right(self, name: impl Into<String>) -> Self {
        self.column(name.into(), Align::Right)
    }

    /// Gives the column added last a unit, shown under its name.
    ///
    /// # Panics
    /// If there is no column yet.
    #[must_use]
    pub fn unit(mut self, unit: impl Into<String>) -> Self {
        let column = self.columns.last_mut().expect("a unit follows a column");
        column.unit = unit.into();
        self
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If the number of cells is not the number of columns.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) -> &mut Self {
        let cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        assert_eq!(cells.len(), self.columns.len(), "cells of a row against columns of the table");
        self.lines.push(Line::Cells(cells));
        self
    }

    /// Adds a horizontal rule, as before a sum. Markdown has none: there the rows just follow each other.
    pub fn rule(&mut self) -> &mut Self {
        self.lines.push(Line::Rule);
        self
    }

    /// The table in Markdown, padded so that it reads well as text too.
    pub fn to_markdown(&self) -> String {
        let escape = |cell: &str| cell.replace('|', "\\|").replace('\n', " ");
        let header: Vec<String> = self
            .columns
            .iter()
            .map(|c| match c.unit.as_str() {
                "" => escape(&c.name),
                unit => escape(&format!("{} ({unit})", c.name)),
            })
            .collect();
        let rows: Vec<Vec<String>> =
            self.rows().map(|cells| cells.iter().map(|c| escape(c)).collect()).collect();
        let widths = self.widths(std::iter::once(&header).chain(&rows));
        // A Markdown rule needs a colon and a dash at least.
        let widths: Vec<usize> = widths.into_iter().map(|w| w.max(2)).collect();
        let mut out = String::new();
        let mut line = |cells: &[String]| {
            for (i, cell) in cells.iter().enumerate() {
                out.push_str(if i == 0 { "| " } else { " | " });
                out.push_str(&pad(cell, widths[i], self.columns[i].align));
            }
            out.push_str(" |\n");
        };
        line(&header);
        let rule: Vec<String> = self
            .columns
            .iter()
            .zip(&widths)
            .map(|(column, &width)| match column.align {
                Align::Left => format!(":{}", "-".repeat(width - 1)),
                Align::Right => format!("{}:", "-".repeat(width - 1)),
            })
            .collect();
        line(&rule);
        rows.iter().for_each(|row| line(row));
        out
    }

    fn column(mut self, name: String, align: Align) -> Self {
        self.columns.push(Column { name, unit: String::new(), align });
        self
    }

    fn rows(&self) -> impl Iterator<Item = &Vec<String>> {
        self.lines.iter().filter_map(|line| match line {
            Line::Cells(cells) => Some(cells),
            Line::Rule => None,
        })
    }

    /// Characters of the widest cell of each column.
    fn widths<'a>(&self, rows: impl Iterator<Item = &'a Vec<String>>) -> Vec<usize> {
        let mut widths = vec![0; self.columns.len()];
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        widths
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.columns.iter().map(|c| c.name.clone()).collect();
        let units: Vec<String> = self.columns.iter().map(|c| c.unit.clone()).collect();
        let widths = self.widths([&names, &units].into_iter().chain(self.rows()));
        let rule = "─".repeat(widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1));
        let write = |f: &mut fmt::Formatter<'_>, cells: &[String]| {
            let mut line = String::new();
            for (i, cell) in cells.iter().enumerate() {
                write!(
                    line,
                    "{}{}",
                    if i == 0 { "" } else { "  " },
                    pad(cell, widths[i], self.columns[i].align)
                )?;
            }
            writeln!(f, "{}", line.trim_end())
        };
        write(f, &names)?;
        if units.iter().any(|unit| !unit.is_empty()) {
            write(f, &units)?;
        }
        writeln!(f, "{rule}")?;
        for line in &self.lines {
            match line {
                Line::Cells(cells) => write(f, cells)?,
                Line::Rule => writeln!(f, "{rule}")?,
            }
        }
        Ok(())
    }
}

/// Pads to a number of characters (the standard formatter counts them too).
fn pad(cell: &str, width: usize, align: Align) -> String {
    match align {
        Align::Left => format!("{cell:<width$}"),
        Align::Right => format!("{cell:>width$}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn methods() -> Table {
        let mut table = Table::new().left("method").right("size").unit("MiB").right("±");
        table.row(["RTN", "1.50", "0.2"]).row(["GPTQ, größer", "12.5", "–"]);
        table
    }

    #[test]
    fn columns_align_by_characters_not_bytes() {
        let text = methods().to_string();
        let want = "\
method        size    ±
               MiB
───────────────────────
RTN           1.50  0.2
GPTQ, größer  12.5    –
";
        assert_eq!(text, want);
    }

    #[test]
    fn no_line_of_units_without_units() {
        let mut table = Table::new().left("a").left("b");
        table.row(["x", "y"]);
        assert_eq!(table.to_string(), "a  b\n────\nx  y\n");
    }

    #[test]
    fn markdown_escapes_and_aligns() {
        let mut table = Table::new().left("|x|").right("n");
        table.row(["a|b", "1"]).rule().row(["c\nd", "22"]);
        assert_eq!(
            table.to_markdown(),
            "| \\|x\\| |  n |\n| :---- | -: |\n| a\\|b  |  1 |\n| c d   | 22 |\n"
        );
    }

    #[test]
    fn an_empty_table_is_a_header() {
        assert_eq!(Table::new().left("a").to_string(), "a\n─\n");
        assert_eq!(Table::new().to_string(), "\n\n");
    }

    #[test]
    #[should_panic(expected = "cells of a row against columns of the table")]
    fn a_row_of_the_wrong_length_is_refused() {
        methods().row(["RTN", "1.50"]);
    }
}
